#!/usr/bin/env bash
# KAVA's main job under Grid Engine, from KAVA's folder:  qsub scripts/submit_sge.sh [--config FILE] [key=value …]
# KAVA watches the clock, saves before h_rt, and the job requeues itself (exit 99) until it is done: docs/clusters.md
# No s_rt: where it is set, h_rt is not enforced.
#$ -N kava
#$ -S /bin/bash
#$ -cwd
#$ -pe smp 4
#$ -l h_rt=04:00:00
#$ -notify
#$ -r y
#$ -j y
. "${KAVA_HOME:-$PWD}/scripts/job.sh" || exit
job scripts/submit_sge.sh "$@"

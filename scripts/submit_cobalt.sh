#!/usr/bin/env bash
# KAVA's main job under Cobalt, from KAVA's folder:  qsub --mode script -A PROJECT scripts/submit_cobalt.sh [--config FILE] [key=value …]
# KAVA watches the clock, saves before the limit, and the job is submitted again until it is done: docs/clusters.md
#COBALT --jobname kava
#COBALT -n 1
#COBALT -t 240
. "${KAVA_HOME:-$PWD}/scripts/job.sh" || exit
job scripts/submit_cobalt.sh "$@"

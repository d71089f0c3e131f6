#!/usr/bin/env bash
# KAVA's main job under LSF, from KAVA's folder:  bsub < scripts/submit_lsf.sh
# Keys travel in a variable:  KAVA_ARGS="--config FILE key=value" bsub < scripts/submit_lsf.sh
# It saves ten minutes before the limit, and LSF requeues it (exit code 85) until it is done: docs/clusters.md
#BSUB -J kava
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -W 4:00
#BSUB -wt 10
#BSUB -wa USR1
#BSUB -Q 85
#BSUB -r
#BSUB -o kava.%J.out
##BSUB -gpu "num=1"
##BSUB -q NAME
##BSUB -P NAME
. "${KAVA_HOME:-$PWD}/scripts/job.sh" || exit
job scripts/submit_lsf.sh "$@"

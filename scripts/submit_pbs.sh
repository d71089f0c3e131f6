#!/usr/bin/env bash
# KAVA's main job under PBS Pro, OpenPBS and Torque, from KAVA's folder:  qsub scripts/submit_pbs.sh
# Keys travel in a variable:  qsub -v KAVA_ARGS="--config FILE key=value" scripts/submit_pbs.sh     Slurm's sbatch takes it as well.
# PBS gives no warning: KAVA watches the clock, saves before the limit, and the job is submitted again until it is done: docs/clusters.md
#PBS -N kava
#PBS -S /bin/bash
#PBS -l nodes=1:ppn=4
#PBS -l walltime=04:00:00
#PBS -r y
#PBS -j oe
##PBS -l mem=16gb
##PBS -q NAME
##PBS -A NAME
. "${KAVA_HOME:-${PBS_O_WORKDIR:-$PWD}}/scripts/job.sh" || exit
job scripts/submit_pbs.sh "$@"

#!/usr/bin/env bash
# KAVA's main job under Slurm, from KAVA's folder:  sbatch scripts/submit_slurm.sh [--config FILE] [key=value …]
# It saves before the limit, or when it is preempted, and requeues itself until it is done: docs/clusters.md
#SBATCH --job-name=kava
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
##SBATCH --mem=16G
##SBATCH --gpus=1
##SBATCH --partition=NAME
##SBATCH --account=NAME
. "${KAVA_HOME:-$PWD}/scripts/job.sh" || exit
job scripts/submit_slurm.sh "$@"

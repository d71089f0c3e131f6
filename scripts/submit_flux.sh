#!/usr/bin/env bash
# KAVA's main job under Flux, from KAVA's folder:  flux batch scripts/submit_flux.sh [--config FILE] [key=value …]
# It saves before the limit, and is submitted again until it is done: docs/clusters.md
# flux: --job-name=kava
# flux: -N 1
# flux: -n 1
# flux: -c 4
# flux: -t 4h
# flux: --signal=USR1@2m
# flux: --output=kava.{{id}}.out
. "${KAVA_HOME:-$PWD}/scripts/job.sh" || exit
job scripts/submit_flux.sh "$@"

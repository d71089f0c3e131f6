#!/usr/bin/env bash
# Breaks a short run of the demo on a real scheduler again and again, then compares it with an unbroken one: the weights byte for byte, the
# logged metrics value for value. Not in the suite: it needs a cluster, and minutes.
#   scripts/checks/schedulers.sh limit|clock|preempt|node|short|cancel|sge [TIMES] [FOLDER]
#     limit    Slurm's signal before the time limit
#     clock    no signal (submit_pbs.sh, through sbatch): KAVA's own clock
#     preempt  a job in partition "scav" gives way to one in "main" (PreemptMode=REQUEUE, a GraceTime)
#     node     slurmd is killed and the node set down while KAVA runs on: the job starts elsewhere, the first copy must notice
#     short    a step takes longer than the job may run: after three more tries it must end, saying why
#     cancel   scancel: the job must not start itself again
#     sge      Grid Engine: h_rt, KAVA's own clock, exit 99
# Slurm's nodes may all be pretended ones of this machine, and for `node` have to be: SLURM_CONF names its slurm.conf.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
what=${1:?limit, clock, preempt, node, short, cancel or sge expected}
times=${2:-10}
folder=${3:-outputs/schedulers}/$what
rm -rf "$folder"
mkdir -p "$folder"
folder=$(realpath "$folder")
unbroken=$(dirname "$folder")/unbroken # made once
export PACE_FILE=$folder/pace
keys=(threads=1 batch_size=32 steps=60 schedule.name=constant schedule.warmup=5 eval.every=20 eval.rows=32 eval.generate=0 checkpoint.every=2
  loss.name="$PWD/scripts/checks/paced.lua")

echo 0 >"$PACE_FILE"
build/release/kava recipes/train_adaptive.lua "${keys[@]}" output="$unbroken" >"$folder/unbroken.log"
echo "${PACE:-1.5}" >"$PACE_FILE"
begun=$(date +%s)
job=
trap '[ -z "$job" ] || scancel --quiet "$job" 2>/dev/null || qdel "$job" >/dev/null 2>&1 || true' EXIT

log=$folder/job.log
keys+=(output="$folder/broken")
submit() { # sbatch's options, then the script
  sbatch --parsable --open-mode=append --output="$log" "$@" "${keys[@]}"
}
field() { # of the job: Restarts, JobState, BatchHost
  scontrol show job --oneliner "$job" | grep -o " $1=[^ ]*" | head -1 | cut -d= -f2
}
step() { # the last that is logged
  grep '"kind":"train"' "$folder/broken/metrics.jsonl" 2>/dev/null | tail -1 | grep -o '"step":[0-9]*' | cut -d: -f2 || true
}
await() { # SECONDS COMMAND …: until it succeeds
  local end=$(($(date +%s) + $1))
  shift
  until "$@"; do
    [ "$(date +%s)" -lt "$end" ] || { echo "waited too long for: $*" >&2; exit 1; }
    sleep 0.5
  done
}
runs_on() { [ "$(field JobState)" = RUNNING ] && [ "$(step)" -ge "${1:-1}" ] 2>/dev/null; }
restarted() { [ "$(field Restarts)" -gt "$1" ]; }
ended() { case $(field JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) ;; *) false ;; esac; }

breaks=0
case $what in
  limit) job=$(submit --time=1 --signal=B:USR1@50 scripts/submit_slurm.sh) ;;
  clock) job=$(submit --time=1 scripts/submit_pbs.sh) ;;
  short)
    echo 100 >"$PACE_FILE"
    job=$(submit --time=1 --signal=B:USR1@50 scripts/submit_slurm.sh)
    await 300 ended
    if [ "$(field ExitCode)" != 75:0 ] || [ "$(field Restarts)" != 3 ]; then
      echo "the job ended with $(field ExitCode) after $(field Restarts) restarts" >&2
      exit 1
    fi
    grep "nothing to save\|job: " "$log"
    exit 0 ;;
  preempt) job=$(submit --partition=scav --time=30 scripts/submit_slurm.sh) ;;
  node | cancel) job=$(submit scripts/submit_slurm.sh) ;;
  sge) ;;
  *) sed -n 's/^# //p' "$0" >&2; exit 2 ;;
esac

case $what in
  limit | clock) await $((times * 150)) restarted $((times - 1)) ;;
  preempt)
    nodes=$(sinfo --noheader --partition=main --format=%D)
    while [ "$breaks" -lt "$times" ]; do
      await 120 runs_on $((2 * breaks + 2))
      other=$(sbatch --parsable --output=/dev/null --partition=main --nodes="$nodes" --exclusive --time=1 --wrap "sleep 1")
      await 120 restarted "$breaks"
      breaks=$((breaks + 1))
      scancel --quiet "$other" || true
    done ;;
  node)
    pid_file=$(scontrol show config | sed -n 's/^SlurmdPidFile *= //p')
    generation() { grep -o '"generation":[0-9]*' "$folder/broken/owner" | cut -d: -f2; }
    taken() { [ "$(generation)" -gt "$before" ]; }
    dead() { ! kill -0 "$first" 2>/dev/null; }
    while [ "$breaks" -lt "$times" ]; do
      await 120 runs_on $((2 * breaks + 2))
      node=$(field BatchHost) before=$(generation)
      first=$(pgrep -f "^[^ ]*build/release/kava .*output=$folder/broken")
      kill -KILL "$(cat "${pid_file//%n/$node}")"
      scontrol update nodename="$node" state=down reason="node loss, on purpose"
      until taken; do # nobody but itself ends the first copy: the slurmd of its node is gone
        if dead; then
          echo "the first copy died before the second began" >&2
          exit 1
        fi
        sleep 0.1
      done
      await 30 dead
      breaks=$((breaks + 1))
      echo "node $node lost: process $first ran on, the copy of generation $(generation) took the folder, $first stopped by itself"
      setsid slurmd -D -N "$node" >/dev/null 2>&1 </dev/null &
      disown
      sleep 1
      scontrol update nodename="$node" state=resume 2>/dev/null || true # one that came back by itself needs none
    done ;;
  cancel)
    await 120 runs_on 2
    scancel "$job"
    await 60 ended
    sleep 15
    if [ "$(field JobState)" != CANCELLED ] || [ "$(field Restarts)" != 0 ]; then
      echo "the job is $(field JobState)" >&2
      exit 1
    fi
    grep "SIGTERM: saved" "$log"
    echo "cancelled, saved, not started again"
    exit 0 ;;
  sge)
    job=$(qsub -terse -o "$log" -l h_rt=0:0:40 -v PACE_FILE="$PACE_FILE" scripts/submit_sge.sh "${keys[@]}")
    many() { [ "$(grep -cs "KAVA has saved" "$log" || true)" -ge "$times" ] 2>/dev/null; }
    await $((times * 90)) many
    breaks=$times ;;
esac

echo 0 >"$PACE_FILE" # the rest at full speed
if [ "$what" = sge ]; then
  gone() { ! qstat -j "$job" >/dev/null 2>&1; }
  await 120 gone
else
  await 180 ended
  breaks=$(field Restarts)
  [ "$(field JobState)" = COMPLETED ] || { echo "the job ended as $(field JobState), exit code $(field ExitCode): $log" >&2; exit 1; }
fi

cmp "$unbroken/student/model.safetensors" "$folder/broken/student/model.safetensors"
metrics() { sed -E 's/"tokens_per_s":[0-9.e+-]+//' "$1/metrics.jsonl"; }
cmp <(metrics "$unbroken") <(metrics "$folder/broken")
echo "$what: started again $breaks times in $(($(date +%s) - begun)) s, $(grep -c ": saved " "$log" || true) times after it had saved by" \
  "a signal or the clock: weights and metrics equal the unbroken run's bit by bit"

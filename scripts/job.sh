# shellcheck shell=bash
# job.sh: what the submit scripts have in common. They source it and call `job`, within the job: it runs KAVA, passes signals on to it,
# and tells the scheduler what KAVA's exit code means:
#   0 done   85 saved, to be started again   75 nothing gained, to be started again: three times in a row at most   others: final
# KAVA_ARGS: words before the script's own arguments, for schedulers that pass none. KAVA_HOME: where KAVA's files are, for jobs submitted
# from another folder. KAVA_PROGRAM: the program. KAVA_IMAGE: an Apptainer image that has it. KAVA_RECIPE: another recipe.

say() { echo "job: $*" >&2; }

# Which scheduler runs this, what it calls the job, and where that was submitted. Slurm first: sbatch also takes scripts made for PBS.
where() {
  scheduler=none id=$$ folder=$PWD
  if [ -n "${SLURM_JOB_ID-}" ]; then
    scheduler=slurm id=$SLURM_JOB_ID folder=${SLURM_SUBMIT_DIR:-$PWD}
  elif [ -n "${PBS_JOBID-}" ]; then
    scheduler=pbs id=$PBS_JOBID folder=${PBS_O_WORKDIR:-$PWD}
  elif [ -n "${COBALT_JOBID-}" ]; then
    scheduler=cobalt id=$COBALT_JOBID
  elif [ -n "${LSB_JOBID-}" ]; then
    scheduler=lsf id=$LSB_JOBID-${LSB_JOBINDEX:-0} folder=${LS_SUBCWD:-$PWD}
  elif [ -n "${JOB_ID-}" ] && [ -n "${SGE_O_WORKDIR-}${SGE_CELL-}" ]; then
    scheduler=sge id=$JOB_ID-${SGE_TASK_ID:-undefined} folder=${SGE_O_WORKDIR:-$PWD}
  elif [ -n "${FLUX_URI-}" ]; then
    scheduler=flux id=${FLUX_JOB_ID:-${FLUX_ENCLOSING_ID:-$$}}
  fi
}

# Runs a command, passing on to it, as USR1, what asks this script to stop. Sets code, and asked: the signal that came last.
run() {
  local again=1 status name
  code=127 asked='' child=''
  pass() {
    if [ -n "$child" ] && kill -USR1 "$child" 2>/dev/null; then
      say "SIG$asked: KAVA saves and leaves when its micro-batch is done; where that takes too long, lower batch_size, or have it warned earlier"
    fi
  }
  for name in USR1 USR2 TERM HUP INT; do
    # shellcheck disable=SC2064 # the name as it is now
    trap "asked=$name again=1; pass" "$name"
  done
  "$@" &
  child=$!
  [ -z "$asked" ] || pass # it came before the child had a number
  while [ -n "$again" ]; do # a signal ends `wait`, not the child
    again=
    wait "$child"
    status=$?
    [ "$status" = 127 ] || code=$status # 127: it had ended already
  done
  trap - USR1 USR2 TERM HUP INT
  if [ -n "$asked" ] && [ "$code" -gt 128 ]; then code=75; fi # it died of the signal, before it could watch for any
}

# Has this job started again. Returns only where that cannot be. $1: the submit script, then its arguments
requeue() {
  local script=$1
  shift
  case $scheduler in
    slurm) # which signals a job's steps when the user cancels it, too: that job stays cancelled
      local name=$id
      [ -z "${SLURM_ARRAY_TASK_ID-}" ] || name=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
      case $(scontrol show job --oneliner "$name") in
        *JobState=RUNNING*) scontrol requeue "$name" && { sleep 60; exit "$code"; } ;; # it ends this script
        *) say "Slurm has ended this job itself" ;; # by scancel; or to start it again, whatever this script does
      esac ;;
    sge) exit 99 ;;
    lsf) exit 85 ;; # bsub -Q 85
    none) say "no scheduler is seen" ;;
    *) # where users may not requeue, the script submits itself: unless it was told to end (qdel)
      export KAVA_CHAIN=$chain
      if [ "$asked" = TERM ] || [ "$asked" = HUP ]; then
        say "$scheduler ended this job by SIG$asked: it is not submitted again"
      elif [ "$scheduler" = pbs ]; then
        qrerun "$id" 2>/dev/null && { sleep 60; exit "$code"; } # operators may; it ends this script
        # not what looks like a secret: PBS keeps a job's variables, and shows them
        qsub -v "$(compgen -A export KAVA_ | grep -vE 'TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL' | paste -sd, -)" "$script" && exit 0
      elif [ "$scheduler" = cobalt ]; then
        qsub --env "KAVA_CHAIN=$chain" "$script" "$@" && exit 0
      elif [ "$scheduler" = flux ]; then
        flux --parent batch "$script" "$@" && exit 0
      fi ;;
  esac
}

# job SCRIPT [ARGUMENT …]: the whole job; does not return.
job() {
  local home=${KAVA_HOME:-.} script program words=() command=() tries count
  script=$home/$1
  shift
  where
  cd "$folder" || exit 2
  if [ "$scheduler" = slurm ]; then # a step of its own is signalled when the job is preempted; this script is not
    command=(srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}")
  fi
  program=${KAVA_PROGRAM:-$home/build/release/kava}
  if [ -n "${KAVA_IMAGE-}" ]; then
    command+=(apptainer exec)
    if command -v nvidia-smi >/dev/null; then command+=(--nv); fi
    command+=("$KAVA_IMAGE")
    program=kava
  elif [ ! -x "$program" ]; then
    command -v kava >/dev/null || { say "$program is not there: build it (scripts/build), or set KAVA_PROGRAM"; exit 2; }
    program=kava
  fi
  read -ra words <<<"${KAVA_ARGS-}"
  chain=${KAVA_CHAIN:-$scheduler-$id} # the first of jobs that submitted one another
  tries=.kava-${chain//[!A-Za-z0-9._-]/_}.tries # how often in a row nothing was gained

  run "${command[@]}" "$program" "${KAVA_RECIPE:-recipes/train_adaptive.lua}" ${words[@]+"${words[@]}"} "$@"
  case $code in
    85)
      rm -f "$tries"
      say "KAVA has saved, and goes on when this job is started again" ;;
    75)
      count=$(($(cat "$tries" 2>/dev/null || echo 0) + 1))
      if [ "$count" -gt 3 ]; then
        rm -f "$tries"
        say "started again three times and nothing gained: this job ends here; the lines above say why"
        exit 75
      fi
      echo "$count" >"$tries"
      say "KAVA asks to be started again (time $count of 3 in a row with nothing gained)" ;;
    *)
      rm -f "$tries"
      exit "$code" ;;
  esac
  requeue "$script" "$@"
  say "this job does not start itself again; submitted anew, it goes on from there"
  exit "$code"
}

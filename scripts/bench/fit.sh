#!/usr/bin/env bash
# The micro-batch that KAVA finds, beside the largest that really gets through: the demo under ulimit -v, and in a cgroup where this
# user may make one (v1, root). Usage: scripts/bench/fit.sh [MIB ...]
set -u
kava=${KAVA_BUILD:-build/release}/kava
out=$(mktemp -d)
trap 'rm -rf "$out"; [ -z "${group:-}" ] || rmdir "$group"' EXIT
group=/sys/fs/cgroup/memory/kava_fit.$$
mkdir "$group" 2>/dev/null || group=

run() { # KIND MIB ARGUMENTS -> the run's output, in its limits
  (
    if [ "$1" = cgroup ]; then echo "$BASHPID" >"$group/cgroup.procs"; else ulimit -v $(($2 * 1024)); fi
    "$kava" recipes/train_adaptive.lua steps=2 eval.every=0 eval.before=false eval.generate=0 eval.rows=8 resume=none output="$out" \
      "${@:3}" 2>&1
  )
}

for kind in ulimit cgroup; do
  [ $kind = ulimit ] || [ -n "$group" ] || continue
  [ $# -gt 0 ] || set -- 50 70 90 120 160 200
  for mib in "$@"; do
    if [ $kind = cgroup ]; then
      echo $((mib << 20)) >"$group/memory.limit_in_bytes"
    fi
    text=$(run $kind "$mib") # one run for its choice
    chosen=$(sed -nE 's/^tune +micro-batch ([0-9]+),.*/\1/p' <<<"$text")
    probes=$(grep -E '^ +tried with' <<<"$text" | grep -oE '[0-9]+ (took|did)' | wc -l)
    most=none
    for rows in 1 2 4 8 16 32; do
      text=$(run $kind "$mib" batch_size=$rows) && ! grep -q 'out of memory' <<<"$text" && most=$rows
    done
    printf '%-7s %4d MiB: chosen %-5s in %d probes, largest that gets through %s\n' $kind "$mib" "${chosen:-none}" "$probes" "$most"
  done
done

#!/usr/bin/env bash
# Runs one command in N connected processes on this machine, as on a pod:
#   bash launch/local_multihost.sh [--dry-run] N COMMAND...
#   bash launch/local_multihost.sh 2 .venv/bin/python -m jssl.train --distributed \
#     --config=configs/quickstart.py --workdir=runs/two
# Each has DEVICES CPU devices (default 1). SIGTERM is passed on to all; if one
# dies, JAX ends the others. The exit status is 1 if any process has status 1 (an
# error that will recur), otherwise that of a failed process, or 0.
set -euo pipefail

dry_run=
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
if [ $# -lt 2 ] || ! [ "$1" -gt 0 ] 2>/dev/null; then
  echo "usage: $0 [--dry-run] N COMMAND..." >&2
  exit 2
fi
count=$1 && shift
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export JAX_NUM_CPU_DEVICES=${DEVICES:-1}
export JAX_COORDINATOR_ADDRESS=127.0.0.1:${PORT:-$((20000 + RANDOM % 20000))}
export JAX_NUM_PROCESSES=$count

if [ -n "$dry_run" ]; then
  for ((i = 0; i < count; i++)); do
    echo "JAX_PLATFORMS=$JAX_PLATFORMS JAX_NUM_CPU_DEVICES=$JAX_NUM_CPU_DEVICES" \
      "JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS" \
      "JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$i ${*@Q}"
  done
  exit
fi

pids=()
trap 'signal=1; kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
for ((i = 0; i < count; i++)); do
  JAX_PROCESS_ID=$i "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  signal=1
  # The signal interrupts `wait`, although the process is still running.
  while [ -n "$signal" ]; do
    signal='' code=0 && wait "$pid" || code=$?
  done
  [ "$code" -eq 0 ] || [ "$status" -eq 1 ] || status=$code
done
exit "$status"

#!/usr/bin/env bash
# Trains on a Cloud TPU slice: requests it, copies this checkout, starts the
# training on all workers (tpu_worker.sh) and watches it. Requests a new slice after
# a preemption, and deletes the slice when the run is complete or has failed: with
# status 1 of any worker, or three times without a new checkpoint.
#   bash launch/tpu_pod.sh [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAGS...]
#   bash launch/tpu_pod.sh pod us-west4-a v5litepod-256 configs/simclr_imagenet.py \
#     gs://BUCKET/simclr --config.data.data_dir=gs://BUCKET/data
# WORKDIR is gs://BUCKET/FOLDER, or a folder on storage that all workers share.
# Environment: RUNTIME, the software version; SPOT=0 for a slice that is not spot.
# The training runs on without this script; started again, the script finds the
# slice and watches it.
set -euo pipefail

dry_run=
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
if [ $# -lt 5 ]; then
  echo "usage: $0 [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAGS...]" >&2
  exit 2
fi
name=$1 zone=$2 type=$3 config=$4 workdir=$5 && shift 5
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"
check_workdir "$workdir"
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
# shellcheck source=launch/tpu_slice.sh
source launch/tpu_slice.sh

worker="bash jssl/launch/tpu_worker.sh" poll=${POLL:-60}
# Chained with &&: `set -e` does not apply in conditions.
train() {
  run tar --exclude=__pycache__ -czf "$files/jssl.tar.gz" \
    pyproject.toml README.md LICENSE jssl configs launch &&
    copy "$files/jssl.tar.gz" &&
    on_workers all "mkdir -p jssl && tar -xzf jssl.tar.gz -C jssl && $worker install" &&
    on_workers all "$worker start ${config@Q} ${workdir@Q} ${*@Q}"
}
worker_states() { on_workers all "$worker state ${workdir@Q} || echo jssl: absent at 0" | sort -u; }
finish() {
  [ "$1" -eq 0 ] || on_workers 0 "tail -n 40 jssl/run.log" >&2 || true
  until delete_slice || [ "$(state)" = NOT_FOUND ]; do sleep "$poll"; done
  exit "$1"
}
watch() {
  local at
  if states=$(worker_states) || [[ $states == *complete* ]]; then silent=0; else
    # A broken connection is not a failed run, unless it lasts.
    [ $((silent += 1)) -lt 60 ] || finish 1
    return 0
  fi
  [ "$states" = "$before" ] || echo "$states"
  before=$states
  case $states in
    *complete*) finish 0 ;;
    *running*) return ;;
    *"ended 1 "*) finish 1 ;;
  esac
  at=$(grep -o 'at [0-9]*$' <<<"$states" | cut -d' ' -f2 | sort -n | tail -1) || true
  # A worker that does not answer, or has a new disk, is no progress.
  if [ "${at:-0}" -gt "$newest" ]; then tries=0 newest=$at; fi
  [ $((tries += 1)) -le 3 ] || finish 1
  train "$@" || true
}

if [ -n "$dry_run" ]; then
  create && train "$@" && worker_states && delete_slice
  exit
fi
states='' before='' newest=0 tries=0 silent=0
while :; do
  case $(state) in
    NOT_FOUND) create || [ $((tries += 1)) -lt 3 ] ;;
    FAILED | SUSPENDED) delete_slice && tries=0 ;;
    ACTIVE) watch "$@" ;;
  esac
  sleep "$poll"
done

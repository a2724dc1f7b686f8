#!/usr/bin/env bash
# Trains on a Cloud TPU slice: queues it, copies this checkout there, starts the
# training on all workers (tpu_worker.sh), looks after it, takes a new slice when
# one is preempted, and gives it back when the run is complete, or fails: by an
# error that would come back, or three times without a new checkpoint.
#   bash launch/tpu_pod.sh [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAGS...]
#   BUCKET=my-bucket bash launch/tpu_pod.sh pod us-west4-a v5litepod-256 \
#     configs/simclr_imagenet.py shared/simclr --config.data.data_dir=shared/data
# WORKDIR is on storage that all workers share: below `shared`, where BUCKET is
# mounted (gcsfuse), or on a mount of your own. Environment: RUNTIME, the software
# version; SPOT=0, not a spot slice. The training doesn't need this script, once it
# runs: started again, it finds the slice and looks after it.
set -euo pipefail

dry_run=
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
if [ $# -lt 5 ]; then
  echo "usage: $0 [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAGS...]" >&2
  exit 2
fi
name=$1 zone=$2 type=$3 config=$4 workdir=$5 && shift 5
cd "$(dirname "$0")/.."
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
# shellcheck source=launch/tpu_slice.sh
source launch/tpu_slice.sh

worker="bash jssl/launch/tpu_worker.sh" bucket=${BUCKET:-} poll=${POLL:-60}
# Chained: in a condition `set -e` isn't heard.
train() {
  run tar --exclude=__pycache__ -czf "$files/jssl.tar.gz" \
    pyproject.toml README.md LICENSE jssl configs launch &&
    copy "$files/jssl.tar.gz" &&
    on_workers all "mkdir -p jssl && tar -xzf jssl.tar.gz -C jssl && BUCKET=${bucket@Q} $worker install" &&
    on_workers all "$worker start ${config@Q} ${workdir@Q} ${*@Q}"
}
look() { on_workers all "$worker state ${workdir@Q} || echo jssl: absent at 0" | sort -u; }
end() {
  [ "$1" -eq 0 ] || on_workers 0 "tail -n 40 jssl/run.log" >&2 || true
  until give_back || [ "$(state)" = NOT_FOUND ]; do sleep "$poll"; done
  exit "$1"
}
attend() {
  local at
  if said=$(look) || [[ $said == *complete* ]]; then silent=0; else
    # A connection that broke says nothing of the run, unless it stays so.
    [ $((silent += 1)) -lt 60 ] || end 1
    return 0
  fi
  [ "$said" = "$before" ] || echo "$said"
  before=$said
  case $said in
    *complete*) end 0 ;;
    *running*) return ;;
    *"ended 1 "*) end 1 ;;
  esac
  at=$(grep -o 'at [0-9]*$' <<<"$said" | sort -nk2 | tail -1) || true
  [ "$at" = "$newest" ] || tries=0
  newest=$at
  [ $((tries += 1)) -le 3 ] || end 1
  train "$@" || true
}

if [ -n "$dry_run" ]; then
  create && train "$@" && look && give_back
  exit
fi
said='' before='' newest='at 0' tries=0 silent=0
while :; do
  case $(state) in
    NOT_FOUND) create || [ $((tries += 1)) -lt 3 ] ;;
    FAILED | SUSPENDED) give_back && tries=0 ;;
    ACTIVE) attend "$@" ;;
  esac
  sleep "$poll"
done

#!/usr/bin/env bash
# Trains on a Cloud TPU slice: queues it, installs this project, starts the
# training on all workers, takes a new slice when one is preempted, and gives it
# back when the run is complete.
#   bash launch/tpu_pod.sh [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAGS...]
#   BUCKET=my-bucket bash launch/tpu_pod.sh pod us-west4-a v5litepod-256 \
#     configs/simclr_imagenet.py shared/simclr --config.data.data_dir=shared/data
# WORKDIR is on storage that all workers share: below `shared`, where BUCKET is
# mounted (gcsfuse), or on a mount of your own. Environment: RUNTIME, the
# software version; SOURCE, what pip installs; SPOT=0, not a spot slice.
set -euo pipefail

dry_run=
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
if [ $# -lt 5 ]; then
  echo "usage: $0 [--dry-run] NAME ZONE TYPE CONFIG WORKDIR [FLAGS...]" >&2
  exit 2
fi
name=$1 zone=$2 type=$3 config=$4 workdir=$5 && shift 5
case $type in
  v5litepod-*) default=v2-alpha-tpuv5-lite ;;
  v5p-*) default=v2-alpha-tpuv5 ;;
  v6e-*) default=v2-alpha-tpuv6e ;;
  v4-*) default=tpu-ubuntu2204-base ;;
  *) default=${RUNTIME:?"$type: say its software version in RUNTIME"} ;;
esac

run() {
  if [ -n "$dry_run" ]; then echo "${*@Q}"; else "$@"; fi
}
queue() { run gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"; }
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}
state() {
  [ -n "$dry_run" ] || gcloud compute tpus queued-resources describe "$name" \
    --zone="$zone" --format="value(state.state)" 2>/dev/null || true
}
create() {
  local spot=(--spot)
  [ "${SPOT:-1}" != 0 ] || spot=()
  queue create --node-id="$name" --accelerator-type="$type" \
    --runtime-version="${RUNTIME:-$default}" "${spot[@]}"
}
give_back() { queue delete --force --quiet; }
train() {
  local mount="mkdir -p shared"
  [ -z "${BUCKET:-}" ] || mount+=" && (mountpoint -q shared || gcsfuse --implicit-dirs ${BUCKET@Q} shared)"
  local source=${SOURCE:-jssl[tpu]}
  on_workers all "pip install -q ${source@Q} && $mount"
  run gcloud compute tpus tpu-vm scp --recurse configs "$name": --zone="$zone" --worker=all
  on_workers all "python3 -m jssl.train --distributed --config=${config@Q} --workdir=${workdir@Q} ${*@Q}"
  # A run that was told to stop also ends well.
  on_workers 0 "grep -qs '\"complete\"' ${workdir@Q}/status.json"
}

if [ -n "$dry_run" ]; then
  create && train "$@" && give_back
  exit
fi
failures=0
while :; do
  case $(state) in
    "") create ;;
    ACTIVE)
      if train "$@"; then break; fi
      # Of a preemption the state tells soon. What fails on a slice that stays
      # is the run itself.
      sleep 120
      if [ "$(state)" = ACTIVE ] && [ $((failures += 1)) -ge 3 ]; then
        echo "error: failed 3 times; the slice is still there, give it back with:" >&2
        dry_run=1 give_back >&2
        exit 1
      fi
      ;;
    FAILED | SUSPENDED) failures=0 && give_back ;;
    *) sleep 60 ;;
  esac
done
give_back

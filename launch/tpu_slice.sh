# shellcheck shell=bash
# Sourced by tpu_pod.sh: gcloud commands for the slice $name of $type in $zone.
# Prints them instead if $dry_run is set. $files is a temporary folder.
# shellcheck disable=SC2154  # The variables are set by tpu_pod.sh.

case $type in
  v5litepod-*) software=v2-alpha-tpuv5-lite ;;
  v5p-*) software=v2-alpha-tpuv5 ;;
  v6e-*) software=v2-alpha-tpuv6e ;;
  v4-*) software=tpu-ubuntu2204-base ;;
  *) software=${RUNTIME:?"$type: set RUNTIME to its software version"} ;;
esac

run() {
  if [ -n "$dry_run" ]; then echo "${*@Q}"; else "$@"; fi
}
queue() {
  run gcloud compute tpus queued-resources "$1" "$name" --zone="$zone" "${@:2}"
}
create() {
  local spot=(--spot)
  [ "${SPOT:-1}" != 0 ] || spot=()
  queue create --node-id="$name" --accelerator-type="$type" \
    --runtime-version="${RUNTIME:-$software}" "${spot[@]}"
}
delete_slice() { queue delete --force --quiet; }
state() {
  queue describe --format="value(state.state)" 2>"$files/error" && return
  # Other errors of gcloud are not a state of the slice.
  if grep -q NOT_FOUND "$files/error"; then
    echo NOT_FOUND
  else
    cat "$files/error" >&2
  fi
}
copy() {
  run gcloud compute tpus tpu-vm scp "$1" "$name:" --zone="$zone" --worker=all
}
# Runs command $2 on worker $1 or "all". gcloud retries broken connections.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}

# shellcheck shell=bash
# Sourced by tpu_pod.sh: what gcloud does with the slice $name of $type in $zone,
# or would do, if $dry_run says something. $files is a folder.
# shellcheck disable=SC2154  # They are set there.

case $type in
  v5litepod-*) software=v2-alpha-tpuv5-lite ;;
  v5p-*) software=v2-alpha-tpuv5 ;;
  v6e-*) software=v2-alpha-tpuv6e ;;
  v4-*) software=tpu-ubuntu2204-base ;;
  *) software=${RUNTIME:?"$type: say its software version in RUNTIME"} ;;
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
give_back() { queue delete --force --quiet; }
state() {
  queue describe --format="value(state.state)" 2>"$files/error" && return
  # What else keeps gcloud from answering says nothing of the slice.
  if grep -q NOT_FOUND "$files/error"; then
    echo NOT_FOUND
  else
    cat "$files/error" >&2
  fi
}
copy() {
  run gcloud compute tpus tpu-vm scp "$1" "$name:" --zone="$zone" --worker=all
}
# On worker $1, or all, the command $2. gcloud says it again where ssh breaks.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}

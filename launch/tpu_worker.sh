#!/usr/bin/env bash
# Runs on each worker of a TPU slice, for tpu_pod.sh, in its copy of the checkout:
#   install         installs jssl into .venv-tpu and mounts BUCKET, if set, at shared
#   start CONFIG WORKDIR [FLAGS...]   starts the training, unless one is running
#   state WORKDIR   prints complete, running or ended, and the last checkpoint
# The images have Python 3.10 and jssl needs 3.11: uv downloads 3.12 if necessary.
# gcsfuse is installed from Google's packages if it is missing.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

install() {
  if [ ! -x .venv-tpu/bin/python ]; then
    python3 -m pip install --quiet --target .uv uv
    .uv/bin/uv venv --quiet --seed --python 3.12 .venv-tpu
  fi
  PYTHON=.venv-tpu/bin/python environment .venv-tpu tpu
  mkdir -p shared
  [ -z "${BUCKET:-}" ] || mountpoint -q shared || mount_bucket
}

mount_bucket() {
  local key=/usr/share/keyrings/cloud.google.asc from=https://packages.cloud.google.com/apt
  if ! command -v gcsfuse >/dev/null; then
    curl -fsS "$from/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -qq
    # A new machine may still be installing packages.
    sudo apt-get install -qq -o DPkg::Lock::Timeout=600 gcsfuse
  fi
  # A save renames its folder. Rows appended to metrics.jsonl reach the bucket
  # when the file is closed.
  gcsfuse --implicit-dirs --rename-dir-limit=200000 "$BUCKET" shared
}

start() {
  local config=$1 workdir=$2 && shift 2
  # The training and its children hold the lock until they end.
  exec 9>run.lock
  flock --nonblock 9 || return 0
  rm -f run.status
  # Shared storage survives a preemption.
  JAX_COMPILATION_CACHE_DIR=$(dirname "$workdir")/compiled
  export JAX_COMPILATION_CACHE_DIR
  # shellcheck disable=SC2016
  setsid bash -c '"$@"; echo $? >run.status' training .venv-tpu/bin/python \
    -m jssl.train --distributed --config="$config" --workdir="$workdir" "$@" \
    >>run.log 2>&1 </dev/null &
}

state() {
  local state step
  if grep -qs '"complete"' "$1/status.json"; then
    state=complete
  elif ! flock --nonblock run.lock true; then
    state=running
  else
    state="ended $(cat run.status 2>/dev/null || echo killed)"
  fi
  # The manifest is the last file of a checkpoint.
  step=$(find "$1/checkpoints" -mindepth 2 -maxdepth 2 -name manifest.json \
    -printf '%P\n' 2>/dev/null | sed 's|/.*||' | sort -n | tail -1) || true
  echo "jssl: $state at ${step:-0}"
}

"$@"

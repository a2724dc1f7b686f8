#!/usr/bin/env bash
# What a worker of a TPU slice does for tpu_pod.sh, in its copy of the checkout:
#   install         jssl into .venv-tpu; BUCKET, if there is one, mounted at shared
#   start CONFIG WORKDIR [FLAGS...]   the training, detached, unless one is running
#   state WORKDIR   one line: complete, running or ended, and the last checkpoint
# Images have Python 3.10, jssl needs 3.11: uv takes 3.12 if it is there, and else
# fetches it. gcsfuse is installed from Google's packages where it is missing.
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
    # A machine that has just started may be installing packages by itself.
    sudo apt-get install -qq -o DPkg::Lock::Timeout=600 gcsfuse
  fi
  # A save ends with renaming its folder. What is appended to metrics.jsonl gets
  # to the bucket when the run ends, not before.
  gcsfuse --implicit-dirs --rename-dir-limit=200000 "$BUCKET" shared
}

start() {
  local config=$1 workdir=$2 && shift 2
  # Held by the training, and by all it starts, for as long as they live.
  exec 9>run.lock
  flock --nonblock 9 || return 0
  rm -f run.status
  # On the shared storage it outlives a preemption.
  JAX_COMPILATION_CACHE_DIR=$(dirname "$workdir")/compiled
  export JAX_COMPILATION_CACHE_DIR
  # shellcheck disable=SC2016
  setsid bash -c '"$@"; echo $? >run.status' training .venv-tpu/bin/python \
    -m jssl.train --distributed --config="$config" --workdir="$workdir" "$@" \
    >>run.log 2>&1 </dev/null &
}

state() {
  local is step
  if grep -qs '"complete"' "$1/status.json"; then
    is=complete
  elif ! flock --nonblock run.lock true; then
    is=running
  else
    is="ended $(cat run.status 2>/dev/null || echo killed)"
  fi
  # A manifest is the last thing that a checkpoint gets.
  step=$(find "$1/checkpoints" -mindepth 2 -maxdepth 2 -name manifest.json \
    -printf '%h\n' 2>/dev/null | sed 's|.*/||' | sort -n | tail -1) || true
  echo "jssl: $is at ${step:-0}"
}

"$@"

#!/usr/bin/env bash
# Runs on each worker of a TPU slice, for tpu_pod.sh, in its copy of the checkout:
#   install         installs jssl into .venv-tpu
#   start CONFIG WORKDIR [FLAGS...]   starts the training, unless one is running
#   state WORKDIR   prints complete, running or ended, and the last checkpoint
# The images have Python 3.10 and jssl needs 3.11: uv downloads 3.12 if necessary.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

install() {
  if [ ! -x .venv-tpu/bin/python ]; then
    python3 -m pip install --quiet --target .uv uv
    .uv/bin/uv venv --quiet --seed --python 3.12 .venv-tpu
  fi
  # The same versions on the slice that follows a preempted one.
  PYTHON=.venv-tpu/bin/python environment .venv-tpu tpu,gcs launch/constraints.txt
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
  # Gathers sharded parameters during computation: docs/launch.md.
  local flags=(
    --xla_enable_async_all_gather=true
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    --xla_tpu_enable_async_collective_fusion_multiple_steps=true
    --xla_tpu_overlap_compute_collective_tc=true
  )
  export LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-${flags[*]}}
  # shellcheck disable=SC2016
  setsid bash -c '"$@"; echo $? >run.status' training .venv-tpu/bin/python \
    -m jssl.train --distributed --config="$config" --workdir="$workdir" "$@" \
    >>run.log 2>&1 </dev/null &
}

state() {
  local state step
  read -r state step < <(.venv-tpu/bin/python -m jssl.runtime.status "$1") || true
  if [ "$state" = complete ]; then
    :
  elif ! flock --nonblock run.lock true; then
    state=running
  else
    state="ended $(cat run.status 2>/dev/null || echo killed)"
  fi
  echo "jssl: $state at ${step:-0}"
}

"$@"

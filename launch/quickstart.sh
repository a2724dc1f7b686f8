#!/usr/bin/env bash
# Pretrains, probes and reports on embedded data, in minutes on two CPU cores.
# The workdir is runs/quickstart; the same command resumes.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

environment .venv train
workdir=${1:-runs/quickstart}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Keep freed buffers: returning them to the system and clearing them again took
# a fifth of the time.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}

started=$SECONDS
# Two devices of one core each are faster than one device of two cores.
JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-2} .venv/bin/python -m jssl.train \
  --config=configs/quickstart.py --workdir="$workdir"
.venv/bin/python -m jssl.probe --workdir="$workdir"
.venv/bin/python -m jssl.report --workdir="$workdir"
echo "after the install: $((SECONDS - started)) s"

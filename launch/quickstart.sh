#!/usr/bin/env bash
# Pretrains, probes and reports on embedded data: minutes on two CPU cores.
# The run goes to runs/quickstart; started again, it goes on from there.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

environment .venv ""
workdir=${1:-runs/quickstart}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}

started=$SECONDS
.venv/bin/python -m jssl.train \
  --config=configs/quickstart.py --workdir="$workdir"
.venv/bin/python -m jssl.probe --workdir="$workdir"
.venv/bin/python -m jssl.report --workdir="$workdir"
echo "after the install: $((SECONDS - started)) s"

#!/usr/bin/env bash
# Writes launch/constraints.txt again: the newest versions of all dependencies that fit
# together, for `pip install --constraint launch/constraints.txt 'jssl[tpu,gcs]'`.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

python3 -m venv .venv-constraints
.venv-constraints/bin/python -m pip install --quiet uv
{
  echo "# Newest versions of the dependencies that fit together, by launch/constraints.sh."
  .venv-constraints/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
    --no-header --no-annotate --extra train --extra gcs --extra s3 --extra tpu --extra cuda12
} >launch/constraints.txt

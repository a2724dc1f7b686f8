#!/usr/bin/env bash
# Runs the tests: `bash launch/test.sh [PYTEST ARGUMENTS...]`; with `slow` as first
# argument, those that take minutes and need the preflight extra.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

export JAX_PLATFORMS=cpu
if [ "${1:-}" = slow ]; then
  environment .venv-test test,preflight
  exec .venv-test/bin/python -m pytest -m slow -s "${@:2}"
fi
environment .venv-test test
exec .venv-test/bin/python -m pytest -m "not slow" -n auto "$@"

#!/usr/bin/env bash
# Runs the tests: `bash launch/test.sh [PYTEST ARGUMENTS...]`. With `slow` as first
# argument, those that take minutes and need the preflight extra; with `smoke`, a few
# of every package (tests/smoke.txt) on the newest Python of this machine, on which
# pip may install a newer JAX; with `lowest`, the same tests with the lowest versions
# that pyproject.toml allows.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

newest_python() {
  local name python
  for name in python3.13 python3.12; do
    for python in "$name" "${PYENV_ROOT:-$HOME/.pyenv}/versions/${name#python}".*/bin/"$name"; do
      # pyenv has shims of versions that are not selected: they fail.
      ! "$python" -c "import venv" 2>/dev/null || { echo "$python" && return; }
    done
  done
}

export JAX_PLATFORMS=cpu
if [ "${1:-}" = slow ]; then
  environment .venv-test test,preflight
  exec .venv-test/bin/python -m pytest -m slow -s "${@:2}"
elif [ "${1:-}" = smoke ]; then
  newest=$(newest_python)
  [ -n "$newest" ] || { echo "smoke tests skipped: found no python3.13 or python3.12" && exit; }
  PYTHON=$newest environment .venv-smoke test
  exec .venv-smoke/bin/python -m pytest -m "not slow" -n auto @tests/smoke.txt "${@:2}"
elif [ "${1:-}" = lowest ]; then
  python3 -m venv .venv-lowest
  .venv-lowest/bin/python -m pip install --quiet uv
  .venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
    --resolution lowest-direct --editable ".[test]"
  exec .venv-lowest/bin/python -m pytest -m "not slow" -n auto @tests/smoke.txt "${@:2}"
fi
environment .venv-test test
exec .venv-test/bin/python -m pytest -m "not slow" -n auto "$@"

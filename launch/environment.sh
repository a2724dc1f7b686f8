# shellcheck shell=bash
# Sourced by the other scripts: `environment NAME EXTRAS [CONSTRAINTS]` creates the
# virtual environment NAME in the checkout if it does not exist, and installs jssl with
# EXTRAS ("" for none) into it, in the versions of the file CONSTRAINTS. PYTHON selects
# the interpreter.
# `check_workdir WORKDIR` refuses a folder that jssl.train would refuse.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

environment() {
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python is $("$python" --version 2>&1); jssl needs 3.11 or" \
      "newer; set PYTHON to another interpreter" >&2
    return 1
  fi
  [ -x "$1/bin/python" ] || "$python" -m venv "$1"
  "$1/bin/python" -m pip install --quiet ${3:+--constraint "$3"} --editable ".${2:+[$2]}"
}

check_workdir() {
  if [[ -z $1 || $1 == [-~]* ]] ||
    [[ $1 =~ ^[A-Za-z][A-Za-z0-9+.-]+:/ && ! $1 =~ ^gs://[^/]+/. ]]; then
    echo "error: WORKDIR=$1: expected a folder, or gs://BUCKET/FOLDER" >&2
    return 1
  fi
}

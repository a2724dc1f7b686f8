#!/usr/bin/env bash
# Builds the documentation: `bash launch/docs.sh [FOLDER]`, by default runs/docs. Open
# index.html in it. Warnings and dead links are errors.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

venv=${VENV:-.venv-docs}
environment "$venv" docs
# The notice is about MkDocs 2, which pyproject.toml excludes.
NO_MKDOCS_2_WARNING=1 "$venv/bin/python" -m mkdocs build --quiet --strict \
  --config-file docs/site/mkdocs.yml --site-dir "$(realpath -m "${1:-runs/docs}")"

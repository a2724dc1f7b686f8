#!/usr/bin/env bash
# Builds the documentation: `bash launch/docs.sh [FOLDER]`, by default runs/docs. Open
# index.html in it. Warnings and dead links are errors.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

environment .venv-docs docs
.venv-docs/bin/python -m mkdocs build --quiet --strict \
  --config-file docs/site/mkdocs.yml --site-dir "$(realpath -m "${1:-runs/docs}")"

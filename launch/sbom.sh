#!/usr/bin/env bash
# Lists the dependencies of an install: `bash launch/sbom.sh [EXTRAS] [FOLDER]`, by
# default train and runs/sbom. Writes sbom.json (CycloneDX) and licences.csv.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

out=${2:-runs/sbom}
mkdir -p "$out"
environment .venv-sbom "${1:-train}"
# The tools are in another environment, so that they are not listed.
python3 -m venv .venv-sbom-tools
.venv-sbom-tools/bin/python -m pip install --quiet cyclonedx-bom pip-licenses
.venv-sbom-tools/bin/cyclonedx-py environment .venv-sbom/bin/python --output-file "$out/sbom.json"
.venv-sbom-tools/bin/pip-licenses --python=.venv-sbom/bin/python --from=mixed --format=csv \
  --output-file="$out/licences.csv"

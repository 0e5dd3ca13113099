#!/usr/bin/env bash
# Runs the tests; sets up .venv first if that is needed. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=dev source scripts/setup_venv.sh
# The models of the tests are so small that a second thread costs more than it brings.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -q "$@"

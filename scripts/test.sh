#!/usr/bin/env bash
# Runs the tests; sets up .venv first if that is needed. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=dev source scripts/setup_venv.sh
exec .venv/bin/python -m pytest -q "$@"

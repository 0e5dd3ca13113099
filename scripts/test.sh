#!/usr/bin/env bash
# Runs the tests, two at a time; sets up .venv first if that is needed. Arguments go to pytest.
# TEST_PROCESSES is the number of processes, 0 for none besides this one (as a debugger needs it).
set -euo pipefail
cd "$(dirname "$0")/.."
EXTRAS=dev source scripts/setup_venv.sh
# The models of the tests are so small that a second thread costs more than it brings.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest -q --numprocesses "${TEST_PROCESSES:-2}" --dist worksteal "$@"

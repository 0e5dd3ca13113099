# Makes .venv with this project and the extras that are asked for; to be sourced from the root.
#
#     EXTRAS=dev source scripts/setup_venv.sh
#
# Safe to run again: it only works when something has changed, and a half-made .venv is made anew.

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is wanted as python3 (found: $(python3 --version 2>&1))." >&2
    exit 1
fi

stamp=.venv/.installed-${EXTRAS}
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    python3 -m venv .venv
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".[${EXTRAS}]"
    echo "$wanted" > "$stamp"
fi

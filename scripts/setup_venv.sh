# Makes .venv with this project and the extras that are asked for; to be sourced from the root.
#
#     EXTRAS=dev source scripts/setup_venv.sh
#
# Safe to run again: it only works when something has changed, and a half-made .venv is made anew.

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is wanted (found: $(python3 --version 2>&1))." >&2
    exit 1
fi

stamp=.venv/.installed-${EXTRAS}
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "== setting up .venv (once; a minute or a few)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".[${EXTRAS}]"
    echo "$wanted" > "$stamp"
fi

#!/bin/sh
# Makes a virtual environment in $1 with $PYTHON (python3), 3.11 or newer. Debian splits venv off into a package of its own:
# it is installed where we may, else named.
set -eu
python="${PYTHON:-python3}"
command -v "$python" > /dev/null 2>&1 || { echo "error: no $python found; expected Python 3.11 or newer (make PYTHON=...)" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $("$python" --version) is too old; expected Python 3.11 or newer (make PYTHON=...)" >&2; exit 1; }
if ! "$python" -c 'import ensurepip, venv' > /dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null 2>&1; then
        apt-get update -qq && apt-get install -y -qq python3-venv > /dev/null
    else
        echo "error: this Python has no venv; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi
[ -x "$1/bin/python" ] || "$python" -m venv "$1"

#!/bin/sh
# Makes a virtual environment in $1 with $PYTHON (python3), 3.11 or newer. On Debian venv is a package of its own: root
# installs it, other users get its name.
set -eu
python="${PYTHON:-python3}"
command -v "$python" > /dev/null 2>&1 || { echo "error: $python not found; expected Python 3.11 or newer. Try make PYTHON=..." >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $("$python" --version) is too old; expected Python 3.11 or newer. Try make PYTHON=..." >&2; exit 1; }
if ! "$python" -c 'import ensurepip, venv' > /dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null 2>&1; then
        apt-get update -qq && apt-get install -y -qq python3-venv > /dev/null
    else
        echo "error: this Python has no venv. On Debian try apt-get install python3-venv" >&2
        exit 1
    fi
fi
[ -x "$1/bin/python" ] || "$python" -m venv "$1"

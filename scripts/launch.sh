#!/bin/sh
# launch.sh SCRIPT ARGUMENTS: runs a script of this folder in the project's environment. It uses deepspeed if LAUNCH is set or
# if there are several GPUs, else one process. If a --config is not found here, it is looked up in the project.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
script="$here/$1"
shift
if [ "${1:-}" = --config ] && [ ! -f "$2" ]; then
    config="$here/../$2"
    shift 2
    set -- --config "$config" "$@"
fi
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x "$here/../.venv/bin/python" ] && PYTHON="$here/../.venv/bin/python"
fi
command -v "$PYTHON" > /dev/null 2>&1 || { echo "error: $PYTHON not found; expected Python with hpm-video. Try make install" >&2; exit 1; }
PATH="$(dirname "$(command -v "$PYTHON")"):$PATH" # finds its deepspeed, and the Python that deepspeed starts
export PATH
if [ -z "${LAUNCH:-}" ]; then
    gpus="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')"
    [ "$gpus" -gt 1 ] || exec "$PYTHON" "$script" "$@"
    LAUNCH="--num_gpus $gpus"
fi
# shellcheck disable=SC2086
exec deepspeed $LAUNCH "$script" "$@"

#!/bin/sh
# launch.sh SCRIPT ARGUMENTS: a script of this folder, in the project's environment; by deepspeed where LAUNCH is set or there
# are several GPUs, else in one process. A --config that is not found here is looked for in the project.
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
command -v "$PYTHON" > /dev/null 2>&1 || { echo "error: no $PYTHON; expected Python with hpm-video installed (make install)" >&2; exit 1; }
PATH="$(dirname "$(command -v "$PYTHON")"):$PATH" # where its deepspeed is, and what that starts
export PATH
if [ -z "${LAUNCH:-}" ]; then
    gpus="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')"
    [ "$gpus" -gt 1 ] || exec "$PYTHON" "$script" "$@"
    LAUNCH="--num_gpus $gpus"
fi
# shellcheck disable=SC2086
exec deepspeed $LAUNCH "$script" "$@"

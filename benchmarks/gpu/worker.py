"""Run one stage of the GPU script in a process of its own, or check which packages can be imported. Only run.py starts it."""

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent
SIGN = "@hpm "  # starts the lines for run.py, among the output of libraries
PR_SET_PDEATHSIG = 1


def run_stage(name: str, file: Path, device: str, tiny: bool, until: float) -> None:
    """Run the stage and write how it ended. A stage returns None, or a sentence about its fault."""
    from context import Context, Skip

    context = Context(file, device, tiny, until)
    try:
        problem = importlib.import_module(f"stage_{name}").main(context)
    except Skip as error:
        context.end("skipped", str(error))
    except BaseException as error:
        traceback.print_exc()
        context.end("failed", f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:500])
    else:
        context.end("failed" if problem else "done", problem or "")


def examine(names: list[str]) -> None:
    """Print for each package whether it can be imported, then the machine."""
    for name in names:
        error = None
        try:
            importlib.import_module(name)
        except BaseException as fault:
            error = f"{type(fault).__name__}: {(str(fault).strip().splitlines() or [''])[0]}"[:300]
        sys.stdout.write(f"\n{SIGN}{json.dumps({'name': name, 'error': error})}\n")
        sys.stdout.flush()
    sys.stdout.write(f"\n{SIGN}{json.dumps({'machine': describe_machine()})}\n")


def describe_machine() -> dict[str, Any]:
    """Return card, driver, versions, commit and cores, where known."""
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "card": None, "driver": None}
    with contextlib.suppress(Exception):
        import torch

        found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
        if torch.cuda.is_available():
            found["card"] = torch.cuda.get_device_name()
            found["cudnn"] = torch.backends.cudnn.version()
            found["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    with contextlib.suppress(Exception):
        from hpm_video.runs.machine import describe_hardware, list_versions, source_commit

        found |= {"hardware": describe_hardware(), "versions": list_versions(), "commit": source_commit()}
    if found["card"] is not None:
        with contextlib.suppress(Exception):
            words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            answer = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
            found["driver"] = answer.stdout.splitlines()[0].strip()
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examine", nargs="*", default=None)
    parser.add_argument("--stage")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--until", type=float, default=0.0)
    given = parser.parse_args(arguments)
    if given.examine is not None:
        examine(given.examine)
    else:
        run_stage(given.stage, given.file, given.device, given.tiny, given.until)


if __name__ == "__main__":
    with contextlib.suppress(Exception):  # if run.py is killed, so is this process (Linux)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.path[:0] = [str(HOME), str(HOME.parent), str(HOME.parents[1])]
    main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of libraries sometimes abort the exit of the interpreter

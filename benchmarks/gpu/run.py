"""Measure everything that needs a GPU, with one command, in minutes: checks, speed, profile, feed, study of masks.

    python benchmarks/gpu/run.py --out DIR [--minutes 8] [--stages truth speed profile feed arena] [--device cpu --tiny]

The stages run in order of value. Each has a process group of its own, which is killed at the stage's limit. DIR gets a
STAGE.json for each stage, valid at any time, and run.log with all output. `python benchmarks/gpu/report.py DIR` makes the
page. The script works from a plain checkout: it first names each missing package and the stage that is skipped without it.
`--device cpu --tiny` runs everything in a small form, whose figures mean nothing. Exit code 0: every stage is done, or
skipped for a stated reason.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

HOME = Path(__file__).resolve().parent
ROOT = HOME.parents[1]
sys.path[:0] = [str(HOME), str(ROOT)]

from worker import SIGN  # noqa: E402

from hpm_video.errors import UserError  # noqa: E402
from hpm_video.files import write_json, write_text  # noqa: E402
from hpm_video.own_folder import OwnFolder  # noqa: E402

COMMAND, LOG, FORMAT = "benchmarks/gpu/run.py", "run.log", "hpm-video gpu stage 1"
MINUTES = 8.0
# of each stage, if MINUTES are given in total; inf: all that is left
LIMITS_S = {"truth": 90.0, "speed": 150.0, "profile": 60.0, "feed": 60.0, "arena": float("inf")}
EXAMINE_S, LEAST_S = 90.0, 5.0
BASE = ("numpy", "yaml", "omegaconf", "filelock", "fsspec", "pyarrow", "safetensors", "jaxtyping", "einops")
BASE += ("torch", "torchvision", "timm")
NEEDS = {"truth": (*BASE, "pytest"), "speed": BASE, "profile": BASE, "feed": (*BASE, "av"), "arena": BASE}
HELPFUL = {  # optional packages: (stage that uses it, consequence if it is missing)
    "rich": ("feed", "videos are not prepared, training reads the raw files"),
    "pebble": ("feed", "videos are not prepared, training reads the raw files"),
    "tensorboard": ("feed", "no training from files is measured"),
    "transformers": ("speed", "hf_videomae is not measured"),
    "deepspeed": ("truth", "the ZeRO stages are not compared"),
    "decord": ("feed", "nothing: PyAV reads the videos"),
}


def find_missing(stages: list[str], environment: dict[str, str]) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """Return {name: error, consequence} of the packages that cannot be imported, and the machine.

    An import that ends the process counts as a failed one. After EXAMINE_S the remaining packages count as present.
    """
    wanted = list(dict.fromkeys(name for stage in stages for name in NEEDS[stage]))
    wanted += [name for name, (stage, _) in HELPFUL.items() if stage in stages]
    missing: dict[str, dict[str, str]] = {}
    machine: dict[str, Any] = {}
    until = time.time() + EXAMINE_S
    while not machine and time.time() < until:
        words, rest = [sys.executable, str(HOME / "worker.py"), "--examine", *wanted], until - time.time()
        output, status = _read_output(words, environment, rest)
        for line in output.splitlines():
            if not line.startswith(SIGN):
                continue
            answer = json.loads(line.removeprefix(SIGN))
            machine = answer.get("machine", machine)
            if "name" in answer:
                wanted.remove(answer["name"])
                if answer["error"]:
                    missing[answer["name"]] = _miss(answer["name"], answer["error"], stages)
        if not machine and status is not None and wanted:
            missing[wanted[0]] = _miss(wanted[0], f"its import ends the process (status {status})", stages)
            wanted.pop(0)
        elif not machine:
            break
    return missing, machine


def _read_output(words: list[str], environment: dict[str, str], most_s: float) -> tuple[str, int | None]:
    """Return the output of a process and its exit status; None if it took longer than most_s."""
    options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "errors": "replace"}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True, **options)
    try:
        return process.communicate(timeout=most_s)[0], process.returncode
    except subprocess.TimeoutExpired:
        kill_group(process)
        return process.communicate()[0] or "", None


def _miss(name: str, error: str, stages: list[str]) -> dict[str, str]:
    needing = [stage for stage in stages if name in NEEDS[stage]]
    consequence = f"skipped: {', '.join(needing)}" if needing else HELPFUL[name][1]
    return {"error": error, "consequence": consequence}


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process and its group, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def supervise(words: list[str], file: Path, log: Path, limit_s: float, environment: dict[str, str]) -> dict[str, Any]:
    """Run a stage that keeps its results in `file`. Return its content, including how the stage ended."""
    began, killed = time.monotonic(), ""
    with log.open("ab") as stream:
        options: Any = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True, **options)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            killed = f"reached its limit of {limit_s:.0f} s; the results up to then are kept"
        except BaseException:
            _close(file, "killed", f"{COMMAND} was stopped", began)
            raise
        finally:
            kill_group(process)
    if killed:
        return _close(file, "killed", killed, began)
    code = process.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return _close(file, "failed", f"its process ended early with {how} (see {LOG})", began)


def _close(file: Path, status: str, reason: str, began: float) -> dict[str, Any]:
    """Write how a stage ended, if the stage has not done so itself."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["status"] == "running":
        content |= {"status": status, "reason": reason}
    content["seconds"] = round(time.monotonic() - began, 2)
    write_json(file, content)
    return content


def run_stage(
    name: str,
    folder: Path,
    limit_s: float,
    given: argparse.Namespace,
    known: dict[str, Any],
    environment: dict[str, str],
) -> dict[str, Any]:
    """Run one stage to its end or limit. Its file exists before it starts. `known`: machine and missing packages."""
    file = folder / f"{name}.json"
    about = {"format": FORMAT, "stage": name, "status": "running", "reason": "", "seconds": 0.0, "limit_s": limit_s}
    about |= {"date": time.strftime("%F"), "device": given.device, "tiny": given.tiny, **known, "results": {}}
    lacking = [package for package in NEEDS[name] if package in known["missing"]]
    if lacking:
        reasons = "; ".join(f"{package} ({known['missing'][package]['error']})" for package in lacking)
        about |= {"status": "skipped", "reason": f"it needs packages that cannot be imported: {reasons}"}
    elif limit_s < LEAST_S:
        about |= {"status": "skipped", "reason": "no time was left for it"}
    write_json(file, about)
    if about["status"] == "skipped":
        return about
    words = [sys.executable, str(HOME / "worker.py"), f"--stage={name}", f"--file={file}", f"--device={given.device}"]
    words += [f"--until={time.time() + limit_s}", *(["--tiny"] if given.tiny else [])]
    return supervise(words, file, folder / LOG, limit_s, environment)


def make_environment(device: str, tiny: bool) -> dict[str, str]:
    """Return the environment of the stages: the project on the path, no GPU for `cpu`, one thread for `tiny`."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return environment | ({"OMP_NUM_THREADS": "1"} if tiny else {})


def make_teller(log: Path) -> Any:
    """Return a function that writes a line to the terminal and to the log."""

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        with log.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    return tell


def run_all(given: argparse.Namespace) -> int:
    """Run the stages and return the exit code. Raise UserError if the folder is not its own or if there is no GPU."""
    began, folder = time.monotonic(), given.out.resolve()
    names = [f"{stage}.json" for stage in LIMITS_S]
    own = OwnFolder.claim(folder, COMMAND)
    own.reserve([*names, LOG])
    for name in names:
        own.remove(name)  # of an earlier run
    write_text(folder / LOG, "")
    tell, environment = make_teller(folder / LOG), make_environment(given.device, given.tiny)
    stages = [stage for stage in LIMITS_S if stage in given.stages]  # in order of value
    missing, machine = find_missing(stages, environment)
    for name, about in missing.items():
        tell(f"cannot import {name}: {about['error']}; {about['consequence']}")
    tell(f"machine: {machine.get('card') or 'no GPU'}, torch {machine.get('torch')}, {machine.get('cores')} cores")
    if given.device == "cuda" and machine and "torch" not in missing and machine.get("card") is None:
        raise UserError("no CUDA device was found; expected one. Try --device cpu --tiny for the small form on a CPU")
    good = True
    for stage in stages:
        rest = 60 * given.minutes - (time.monotonic() - began)
        limit = min(LIMITS_S[stage] * given.minutes / MINUTES, rest)
        tell(f"{stage}: at most {max(0.0, limit):.0f} s")
        ended = run_stage(stage, folder, limit, given, {"machine": machine, "missing": missing}, environment)
        tell(f"{stage}: {ended['status']} after {ended['seconds']:.0f} s {ended['reason']}".rstrip())
        good = good and ended["status"] in ("done", "skipped")
    return 0 if good else 1


def stop(number: int, frame: Any) -> NoReturn:
    """Exit on a signal, so that the stage is killed too."""
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results: new, empty or its own")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"in total; limits scale with it ({MINUTES:g})")
    parser.add_argument("--stages", nargs="+", choices=list(LIMITS_S), default=list(LIMITS_S), metavar="STAGE")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and few steps, to try the script itself")
    signal.signal(signal.SIGTERM, stop)
    try:
        return run_all(parser.parse_args(arguments))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

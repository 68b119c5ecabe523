"""What a run was and what it gave, in one file: RUN/results.json. Reports read nothing else but RUN/metrics.jsonl.

```
format, version      of this file
kind                 pretrain, finetune, test or probe
config, seed         every key of the run
pretraining          of a fine-tuned run: config, data, flops, hours, figures of the run it started from; null otherwise
versions, commit     of the libraries; of the checkout that the program ran from (null where it is none)
hardware             processor, cores, memory, accelerators; never the host's name
world_size           processes that ended the run
hours, device_hours  of training over all resumes; the second is hours * world_size
flops                of training, counted from shapes (hpm_video/costs/flops.py)
memory_gib           the most that rank 0 held since it was started, of the accelerator, or without one of the machine
data                 name, num_rows, fingerprint and content of the training rows
changes              data that were changed on the way, with train.accept: step, what, before, after
earlier              of a run that was made longer: config, data, figures and scores of each end before
figures              of the end: steps, clips, clips_per_s, num_bad, num_seen, bad_files, num_skipped, ...
scores               what tests and probes added later, by name
```
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import hpm_video
from hpm_video.data.source import Source
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.reading import brief, parse_json
from hpm_video.runs.machine import num_free_cores

FILE, FORMAT, VERSION = "results.json", "hpm-video results", 1
KINDS = ("pretrain", "finetune", "test", "probe")
LIBRARIES = ("torch", "torchvision", "timm", "deepspeed", "av", "numpy")
NEEDED: dict[str, Any] = {"kind": str, "config": dict, "figures": dict, "scores": dict, "hours": int | float}
OPTIONAL: dict[str, Any] = {"data": dict, "versions": dict, "hardware": dict, "commit": dict, "pretraining": dict}
OPTIONAL |= {"flops": int | float, "device_hours": int | float, "world_size": int, "earlier": list}
NUM_SAMPLED = 16  # samples whose content counts
FLOPS_NOTE = "counted from shapes, 2 per multiply-add"


def write_results(  # noqa: PLR0913
    run: Path,
    kind: str,
    config: Any,
    *,
    seconds: float,
    flops: float | None,
    world_size: int,
    figures: Mapping[str, Any],
    data: Mapping[str, Any] = MappingProxyType({}),
    changes: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """RUN/results.json, atomically. `config` is a configuration dataclass, `seconds` of training over all resumes.

    A finished run that is started again trains nothing: its file stays as it is, with its scores and the machine that trained
    it. Of a run that was made longer the end before, with its scores, goes under `earlier`. Raises UserError if there is a
    file that cannot be read.
    """
    assert kind in KINDS, kind
    file, settings = run / FILE, dataclasses.asdict(config)
    with _locked(run):
        before = read_results(run) if file.exists() else None
        hours = seconds / 3600
        if before is not None and (before["kind"], before["hours"]) == (kind, hours):
            return file
        content = {"format": FORMAT, "version": VERSION, "kind": kind, "config": settings}
        content |= {"seed": settings["train"]["seed"], "pretraining": _read_pretraining(settings)}
        content |= {"versions": list_versions(), "commit": source_commit(), "hardware": describe_hardware()}
        content |= {"world_size": world_size, "hours": hours, "device_hours": hours * world_size}
        content |= {"flops": flops, "flops_note": FLOPS_NOTE, "memory_gib": peak_memory_gib()}
        content |= {"data": dict(data), "figures": dict(figures)}
        content |= {"changes": list(changes), "scores": {}}
        if before is not None and before["figures"].get("steps") == figures.get("steps"):
            content["scores"] = before["scores"]
        elif before is not None:  # of other weights
            earlier = {name: before.get(name) for name in ("config", "data", "figures", "scores")}
            content |= {"earlier": [*before.get("earlier", []), earlier]}
        write_json(file, content)
    return file


def add_scores(run: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Puts the scores of a test or a probe under `scores.NAME`, in place of earlier ones of that name; all others stay.

    What reports read: a float in 0..1 is a score, `KEY_interval` [low, high] its 95 % interval; integers, words and truth
    values are settings, in which runs of one comparison must agree (num_clips, num_crops, num_test, pooling).
    """
    with _locked(run):
        content = read_results(run)
        content["scores"][name] = dict(scores)
        write_json(run / FILE, content)


def read_results(run: Path) -> dict[str, Any]:
    """Raises UserError: no run folder, not finished, damaged, of another format or version."""
    file = run / FILE
    if not run.is_dir():
        raise UserError(f"{run} does not exist or is no folder; expected the folder of a finished run")
    if not file.is_file():
        unfinished = (run / "config.yaml").is_file()
        hint = "it is not finished: the command that started it goes on" if unfinished else "it is no run folder"
        raise UserError(f"{run} has no {FILE}; {hint}")
    try:
        content = parse_json(file.read_text())
    except (ValueError, OSError) as error:
        raise UserError(
            f"{file} is damaged ({error}); move it away, and the command of the run writes it again"
        ) from error
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise UserError(f"{file}: format {found[0]!r}, version {found[1]!r}; expected {FORMAT!r}, version {VERSION}")
    lacking = [name for name in ("kind", "config", "seed", "hours", "figures", "scores") if name not in content]
    if lacking:
        raise UserError(f"{file} is damaged: it is without {', '.join(lacking)}")
    _check_record(file, content)
    return content


def _check_record(file: Path, content: Mapping[str, Any]) -> None:
    """Raise UserError if a part of a record is not of the type that readers of it take it for."""
    _check_shapes(file, content, NEEDED, needed=True)
    _check_shapes(file, content, OPTIONAL, needed=False)
    if before := content.get("pretraining"):
        of_before = {name: NEEDED[name] for name in ("config", "figures", "hours")}
        _check_shapes(file, before, of_before, needed=True, prefix="pretraining.")
        _check_shapes(file, before, OPTIONAL, needed=False, prefix="pretraining.")
    for name, entry in content["scores"].items():
        _check_shapes(file, content["scores"], {name: dict}, needed=True, prefix="scores.")
        shapes = {key: list for key in entry if key.endswith("_interval")} | {"num_test": int}
        _check_shapes(file, entry, shapes, needed=False, prefix=f"scores.{name}.")


def _check_shapes(
    file: Path, part: Mapping[str, Any], shapes: Mapping[str, Any], *, needed: bool, prefix: str = ""
) -> None:
    """`needed`: null neither."""
    for name, shape in shapes.items():
        value = part.get(name)
        if not isinstance(value, shape) and (needed or value is not None):
            raise UserError(
                f"{file} is damaged: {prefix}{name} is {brief(value, 60)}; expected what this program wrote"
            )


def describe_data(source: Source) -> dict[str, Any]:
    """Return name, number of rows, fingerprint and content of a data set.

    fingerprint: of path (from the root on), label and first frame of each row, so that the same data have the same one on
    every machine; null for shards, whose rows lie in their tars. content: of the sizes and the first bytes of some files, so
    that two sets with the same names are told apart; null if none of them can be read.
    """
    return {
        "name": source.set_name,
        "num_rows": len(source),
        "fingerprint": source.fingerprint(),
        "content": _digest_content(source),
    }


def _digest_content(source: Source) -> str | None:
    """Return a digest of NUM_SAMPLED samples, spread over all rows."""
    if not len(source):
        return None
    rows = sorted({len(source) * place // NUM_SAMPLED for place in range(NUM_SAMPLED)})
    found = [source.describe(row) for row in rows]
    if not any(found):
        return None
    return hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def list_versions() -> dict[str, str | None]:
    """Of this program, Python, and the libraries that figures depend on; null where one is not installed."""
    versions: dict[str, str | None] = {"hpm_video": hpm_video.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def source_commit() -> dict[str, Any] | None:
    """{commit, dirty} of the checkout that this package is imported from; None where it is installed, or git fails."""
    root = Path(hpm_video.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *words: str) -> str:
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent)}  # this checkout, none around it
    options: Any = {"capture_output": True, "text": True, "timeout": 10, "check": True, "env": environment}
    return subprocess.run(["git", "-C", str(root), *words], **options).stdout.strip()


def describe_hardware() -> dict[str, Any]:
    """Of the machine of this process: no name of the host, and nothing of other nodes."""
    found: dict[str, Any] = {"processor": _processor(), "cores": num_free_cores(), "memory_gib": None}
    with contextlib.suppress(ValueError, OSError):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    count = torch.cuda.device_count()
    devices = [torch.cuda.get_device_properties(number) for number in range(count)]
    found["accelerators"] = [device.name for device in devices]
    found["accelerator_memory_gib"] = [round(device.total_memory / 2**30, 1) for device in devices]
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB


def _read_pretraining(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the record of the run says that `init.weights` names; None where it names none with a record."""
    weights = settings.get("init", {}).get("weights")
    if not weights:
        return None
    start = Path(weights)
    try:
        found = read_results(start if start.is_dir() else start.parent)
    except UserError:  # weights of another project, or of a run without a record
        return None
    return {name: found.get(name) for name in ("config", "seed", "data", "flops", "hours", "device_hours", "figures")}


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """One writer at a time, where the file system can lock; the lock goes with the process."""
    try:
        folder = os.open(run, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{run} does not exist or is no folder; expected the folder of a run") from error
    try:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)

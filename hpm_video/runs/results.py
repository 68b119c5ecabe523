"""The record of a run in one file, RUN/results.json. Reports read only this file and RUN/metrics.jsonl.

```
format, version      of this file
kind                 pretrain or finetune
config, seed         every key of the run
pretraining          fine-tuned run: config, data, flops, hours, figures of the run it started from; null otherwise
versions, commit     of the libraries; of the checkout that the program was imported from (null without one)
hardware             processor, cores, memory, accelerators; never the host's name
world_size           number of processes at the end of the run
hours, device_hours  of training over all resumes; device_hours = hours * world_size
flops                of training, counted from shapes (hpm_video/costs/flops.py)
memory_gib           peak memory of rank 0 since it was started: of the accelerator, or without one of the host
data                 name, num_rows, fingerprint and content of the training rows
changes              changes of the data that train.accept allowed: step, what, before, after
earlier              extended run: config, data, figures and scores of each earlier end
figures              at the end: steps, clips, clips_per_s, num_bad, num_seen, bad_files, num_skipped, ...
scores               results of tests and probes, added later, by name
```
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hpm_video.data.source import Source
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.reading import brief, parse_json
from hpm_video.runs.kind import CONFIG, KINDS, RESULTS
from hpm_video.runs.machine import describe_hardware, list_versions, peak_memory_gib, source_commit

FILE, FORMAT, VERSION = RESULTS, "hpm-video results", 1
NEEDED: dict[str, Any] = {"kind": str, "config": dict, "figures": dict, "scores": dict, "hours": int | float}
OPTIONAL: dict[str, Any] = {"data": dict, "versions": dict, "hardware": dict, "commit": dict, "pretraining": dict}
OPTIONAL |= {"flops": int | float, "device_hours": int | float, "world_size": int, "earlier": list}
OLDER_NAMES = {f"mean_class{end}": f"mean_class_accuracy{end}" for end in ("", "_interval")}  # in older files
NUM_SAMPLED = 16  # samples whose content is compared
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
    """Write RUN/results.json atomically; return the file.

    `config` is a configuration dataclass, `seconds` of training over all resumes. A finished run that is started again
    trains nothing: its file stays unchanged, with its scores and the machine that trained it. If a run was extended, the
    results of its earlier end go under `earlier`. Raises UserError if an existing file cannot be read.
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
        elif before is not None:  # its scores are of other weights
            earlier = {name: before.get(name) for name in ("config", "data", "figures", "scores")}
            content |= {"earlier": [*before.get("earlier", []), earlier]}
        write_json(file, content)
    return file


def add_scores(run: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Write the scores of a test or a probe to `scores.NAME`. They replace earlier ones of this name; all others stay.

    Reports read a float in 0..1 as a score, and `KEY_interval` [low, high] as its 95 % interval. Integers, strings and
    booleans are settings that runs of one comparison must share (num_clips, num_crops, num_test, pooling).
    """
    with _locked(run):
        content = read_results(run)
        content["scores"][name] = dict(scores)
        write_json(run / FILE, content)


def read_results(run: Path) -> dict[str, Any]:
    """Read RUN/results.json; scores of earlier versions get their current names.

    Raises UserError if the run has not finished, if `run` is not a run folder, or if the file is damaged or of another
    format or version.
    """
    file = run / FILE
    if not run.is_dir():
        raise UserError(f"{run} does not exist or is not a folder; expected the folder of a finished run")
    if not file.is_file():
        unfinished = (run / CONFIG).is_file()
        hint = "the run has not finished. Rerun its command to resume" if unfinished else "it is not a run folder"
        raise UserError(f"{run} has no {FILE}; {hint}")
    try:
        content = parse_json(file.read_text())
    except (ValueError, OSError) as error:
        raise UserError(
            f"{file} is damaged ({error}); move it away and rerun the run's command, which writes it again"
        ) from error
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise UserError(f"{file}: format {found[0]!r}, version {found[1]!r}; expected {FORMAT!r}, version {VERSION}")
    lacking = [name for name in ("kind", "config", "seed", "hours", "figures", "scores") if name not in content]
    if lacking:
        raise UserError(f"{file} is damaged: it lacks {', '.join(lacking)}")
    _check_record(file, content)
    for scores in content["scores"].values():
        for older, name in OLDER_NAMES.items():
            if older in scores:
                scores[name] = scores.pop(older)
    return content


def _check_record(file: Path, content: Mapping[str, Any]) -> None:
    """Raise UserError if a part of a record does not have the type that its readers expect."""
    _check_shapes(file, content, NEEDED, needed=True)
    _check_shapes(file, content, OPTIONAL, needed=False)
    if before := content.get("pretraining"):
        shapes = {name: NEEDED[name] for name in ("config", "figures", "hours")}
        _check_shapes(file, before, shapes, needed=True, prefix="pretraining.")
        _check_shapes(file, before, OPTIONAL, needed=False, prefix="pretraining.")
    for name, entry in content["scores"].items():
        _check_shapes(file, content["scores"], {name: dict}, needed=True, prefix="scores.")
        shapes = {key: list for key in entry if key.endswith("_interval")} | {"num_test": int}
        _check_shapes(file, entry, shapes, needed=False, prefix=f"scores.{name}.")


def _check_shapes(
    file: Path, part: Mapping[str, Any], shapes: Mapping[str, Any], *, needed: bool, prefix: str = ""
) -> None:
    """Raise UserError if a value is of another type; if `needed`, also if it is null."""
    for name, shape in shapes.items():
        value = part.get(name)
        if not isinstance(value, shape) and (needed or value is not None):
            raise UserError(
                f"{file} is damaged: {prefix}{name} is {brief(value, 60)}; expected what this program wrote"
            )


def describe_data(source: Source) -> dict[str, Any]:
    """Return name, number of rows, fingerprint and content of a data set.

    fingerprint: a digest of path (relative to the root), label and first frame of each row, the same on every machine; null
    for shards, whose rows lie in their tars. content: a digest of the sizes and first bytes of some files, which
    distinguishes two sets with the same names; null if none of the files can be read.
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
    rows = sorted({len(source) * number // NUM_SAMPLED for number in range(NUM_SAMPLED)})
    found = [source.describe(row) for row in rows]
    if not any(found):
        return None
    return hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _read_pretraining(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of the run that `init.weights` names; None if there is none."""
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
    """Let one writer in at a time, if the file system supports locks; the lock ends with the process."""
    if not run.is_dir():
        raise UserError(f"{run} does not exist or is not a folder; expected the folder of a run")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):  # Windows has no fcntl
            import fcntl

            folder = os.open(run, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield

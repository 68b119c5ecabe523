"""The folder of a run: check that it is this run's, lock it, find the checkpoint to resume from, compare settings and data.

RUN/data.json holds name, number of rows and fingerprints of the data, and the changes that were accepted. A run resumes only on
its own data: after a silent change, results.json would name the new data for weights that learned from the old ones.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from hpm_video.config import RunConfig
from hpm_video.config.schema import all_fields, older_defaults
from hpm_video.data.source import Source
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.models.encoder import resolve_size
from hpm_video.own_folder import own_folder, read_mark
from hpm_video.reading import parse_json, read_json
from hpm_video.runs.checkpoints import resume_point
from hpm_video.runs.kind import CONFIG, find_older_kind, kind_of, read_sections
from hpm_video.runs.ranks import check_equal, rank, stop_together, together
from hpm_video.runs.results import FILE, describe_data, read_results
from hpm_video.runs.settings import read_config

log = logging.getLogger("hpm_video")
DATA_FILE, HELD_OUT_FILE = "data.json", "held_out.json"

# Keys that may differ when a run resumes: they say how it is executed, not what it computes.
FREE = (
    "data.root",
    "data.annotations",
    "images.root",
    "images.annotations",
    "data.num_workers",
    "data.cache_gib",
    "data.reader",
    "data.time_limit_s",
    "data.store_timeout_s",
    "data.max_bad_share",
    "init.weights",
    "init.trust_pickle",
    "model.first_weights",
    "objective.target_weights",
    "train.output",
    "train.log_every_steps",
    "train.trackers",
    "train.save_every_steps",
    "train.keep_checkpoints",
    "train.max_nonfinite_steps",
    "train.accept",
)
LENGTH = ("train.steps", "train.epochs")
EXECUTION = ("engine.", "test.")  # sections of such keys


@dataclasses.dataclass(kw_only=True)
class RunFolder:
    """The folder of a run, locked by this process (on other ranks: by rank 0)."""

    path: Path
    config: RunConfig
    resumes: Path | None  # the checkpoint to start from
    before: RunConfig | None = None  # the configuration in the folder, if the run resumes
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of the data, accepted, oldest first
    accepted: dict[str, Any] | None = None  # the last of them if this process accepted it (rank 0)

    def check_data(self, sources: Mapping[str, Source]) -> dict[str, Any]:
        """Return a description of each part of the data (train, held_out, images), the same on every rank.

        Raises UserError on every rank if the ranks see different data, or if the run was started on other data and
        train.accept does not allow the change. Every rank calls it.
        """
        found = {part: describe_data(source) for part, source in sources.items()}
        step = 0 if self.resumes is None else _step_of(self.resumes)
        facts = {"the data": found, "the step to start from": step, "the configuration": _comparable(self.config)}
        check_equal(facts)
        with together():
            if rank() == 0:
                self._compare(found, step)
        return found

    def check_held_out(self, names: list[str]) -> None:
        """Raise UserError on every rank if a run written before data.json existed would hold out other clips than it did, and
        so train on clips that it held out. train.accept allows it. Every rank calls it."""
        fault, file = None, self.path / HELD_OUT_FILE
        if rank() == 0 and self.resumes is not None and not (self.path / DATA_FILE).is_file() and file.is_file():
            before = read_json(file, list, "the names of the clips that the run holds out")
            if before != names and self.config.train.accept not in ("data", "all"):
                fault = (
                    f"{self.path} holds out {len(before)} clips ({', '.join(map(str, before[:3]))}), and now it would be "
                    f"{', '.join(names[:3])}; expected the same data to resume. If its folder has train/ and val/, an earlier "
                    "version trained on both: data.format=folder still does. To accept the change: train.accept=data"
                )
        stop_together(fault)

    def keep_data(self, found: dict[str, Any]) -> None:
        """Write RUN/data.json: the data that the run is trained on from here on."""
        write_json(self.path / DATA_FILE, {"data": found, "changes": self.changes})

    def _compare(self, found: dict[str, Any], step: int) -> None:
        """Compare with the data that the run was started on. Record a change that is accepted, else raise UserError."""
        if self.resumes is None:
            return
        before, self.changes = _read_data(self.path)
        difference = None if before is None else _difference(before, found)
        if difference is None:
            return
        if self.config.train.accept not in ("data", "all"):
            raise UserError(
                f"{self.path} was trained on other data ({difference}); expected the same data to resume. For a new run set "
                f"another train.output (init.weights={self.path} starts from its weights). To accept the change: "
                "train.accept=data"
            )
        log.warning("train.accept: the data change from step %d on (%s)", step, difference)
        self.accepted = {"step": step, "what": "data", "before": before, "after": found}
        self.changes.append(self.accepted)


@contextlib.contextmanager
def open_run(config: RunConfig) -> Iterator[RunFolder]:
    """Lock the folder `train.output` before anything is read from it, until the block ends.

    Raises UserError on every rank if the folder is not new, empty or a run of this kind, if another process writes it, or
    if its run was started with other settings. Every rank calls it.
    """
    run, kind = Path(config.train.output), kind_of(config)
    before: RunConfig | None = None

    def names_without_mark(folder: Path) -> list[str] | None:
        return [] if find_older_kind(folder) == kind else None  # a run written before folders had marks

    with contextlib.ExitStack() as stack:
        with together():
            if rank() == 0:
                _refuse_other_kind(run, kind)
                stack.enter_context(own_folder(run, kind, names_without_mark, f"hpm-video {kind}"))
        with together():
            resumes = resume_point(run)
            if resumes is not None:
                sections = read_sections(run)
                before = read_config(run, sections=sections)
                keep_older_behaviour(config, before, sections)
                check_same_run(run, config, before, _step_of(resumes))
        yield RunFolder(path=run, config=config, resumes=resumes, before=before)


def _refuse_other_kind(run: Path, kind: str) -> None:
    mark = read_mark(run)
    found = find_older_kind(run) if mark is None else mark["made_by"]
    if found in ("pretrain", "finetune") and found != kind:
        raise UserError(f"{run} is a {found} run; expected another train.output to {kind}")


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _flatten(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, keys in sections.items() for name, value in keys.items()}


def _comparable(config: RunConfig) -> dict[str, Any]:
    """Return the keys that the ranks must agree on."""
    flat = _flatten(dataclasses.asdict(config))
    return {name: value for name, value in flat.items() if name not in FREE and name != "engine.num_threads"}


def keep_older_behaviour(config: RunConfig, before: RunConfig, sections: Mapping[str, Any]) -> None:
    """Let a run of an earlier version resume as it was started, and log what this sets.

    Keys that its config.yaml (sections) lacks get the value that they stand for in `before`. Keys whose default has changed
    since get the older default if the run has it and the command leaves the key at the new one.
    """
    if type(before) is not type(config):
        return  # `check_same_run` raises
    older = older_defaults(type(config))
    for dotted, field in all_fields(type(config)):
        section, name = dotted.split(".")
        known, keys = sections.get(section), getattr(config, section)
        value, earlier = getattr(keys, name), getattr(getattr(before, section), name)
        if value == earlier or dotted in FREE or dotted.startswith(EXECUTION) or not isinstance(known, dict):
            continue
        if name not in known:
            log.info("%s=%s: the run was started before this key existed", dotted, earlier)
        elif (value, earlier) == (field.default, older.get(section, {}).get(name, MISSING)):
            log.info("%s=%s: the default when the run was started", dotted, earlier)
        else:
            continue
        setattr(keys, name, earlier)


def _resolved(config: RunConfig) -> dict[str, Any]:
    """Return all keys; null sizes of the model as the numbers that they stand for, which may change between versions."""
    sections, size = dataclasses.asdict(config), resolve_size(config.model)
    model = sections["model"]
    model |= {name: value for name, value in size._asdict().items() if name in model}
    if model.get("predictor_depth", 0) is None:
        model["predictor_depth"] = size.decoder_depth
    return _flatten(sections)


def check_same_run(run: Path, config: RunConfig, before: RunConfig, step: int) -> None:
    """Raise UserError if a setting that changes what is computed differs from that of the run (before), which is at `step`.

    train.accept=steps allows another length of the run: from there on the schedules are those of the new length.
    """
    if type(before) is not type(config):
        raise UserError(f"{run} is a {kind_of(before)} run; expected another train.output to {kind_of(config)}")
    earlier = _resolved(before)
    for dotted, value in _resolved(config).items():
        if value == earlier[dotted] or dotted in FREE or dotted.startswith(EXECUTION):
            continue
        if dotted in LENGTH:
            _check_length(run, config, step, f"{dotted}: {value}", earlier[dotted])
            continue
        if (dotted, value, earlier[dotted]) == ("data.format", "folder", "auto") and not (run / DATA_FILE).is_file():
            continue  # then auto meant this for a folder with train/ and val/
        raise UserError(
            f"{dotted}: {value}, but the run in {run} was started with {earlier[dotted]}; expected the same to resume "
            f"(--config {run / CONFIG} gives all of its settings), or another train.output for a new run"
        )


def _check_length(run: Path, config: RunConfig, step: int, setting: str, before: Any) -> None:
    if config.train.accept not in ("steps", "all"):
        raise UserError(
            f"{setting}, but the run in {run} was started with {before}; expected the same to resume. To make this run longer: "
            f"train.accept=steps (its learning rate and masks follow the new length from step {step} on); for a new run from "
            f"its weights: another train.output and init.weights={run}"
        )
    if config.train.steps is not None and config.train.steps < step:
        raise UserError(f"{setting}, but the run in {run} is at step {step} already; expected at least {step}")


def _read_data(run: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the data and the accepted changes of a run. If it was written before data.json existed: the training data of
    its results, else None."""
    file = run / DATA_FILE
    if file.is_file():
        try:
            kept = parse_json(file.read_text(encoding="utf-8"))
            return dict(kept["data"]), list(kept["changes"])
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} is damaged ({error}); move it away to resume without a check of the data"
            ) from error
    if (run / FILE).is_file():
        data = read_results(run).get("data") or {}
        if data.get("fingerprint"):
            return {"train": data}, []
    log.warning("%s was written by an earlier version: cannot check that it was trained on the same data", run)
    return None, []


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return in words how the data differ; None if they agree in everything that is known of both."""
    for part, description in before.items():
        if part not in now:
            return f"no {part} data now, {description.get('num_rows')} rows before"
        for name, label in (
            ("num_rows", "rows"),
            ("fingerprint", "list of files"),
            ("content", "content of the files"),
        ):
            old, new = description.get(name), now[part].get(name)
            if old is not None and new is not None and old != new:
                return f"{part}, {label}: {old} before, {new} now"
    added = [part for part in now if part not in before] if len(before) > 1 else []
    return f"{added[0]} data are new" if added else None

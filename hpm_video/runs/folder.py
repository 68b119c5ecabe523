"""The folder of a training run: whose it is, who writes it, where the run resumes, and on which data it was trained.

RUN/data.json holds name, number of rows and fingerprints of the data, and the changes that were accepted. A run resumes on
its own data only: under another data set of the same command it would end as if the old weights came from the new data.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from hpm_video.config import RunConfig
from hpm_video.config.schema import older_defaults
from hpm_video.data.source import Source
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.models.encoder import resolve_size
from hpm_video.own_folder import own_folder, read_mark
from hpm_video.reading import parse_json, read_json, read_yaml
from hpm_video.runs.checkpoints import resume_point
from hpm_video.runs.kind import CONFIG, find_older_kind, kind_of
from hpm_video.runs.ranks import check_equal, rank, stop_together, together
from hpm_video.runs.results import FILE, describe_data, read_results
from hpm_video.runs.settings import read_config

log = logging.getLogger("hpm_video")
DATA_FILE, HELD_OUT_FILE = "data.json", "held_out.json"

# What may differ when a run resumes: how it is executed, not what it computes.
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


@dataclasses.dataclass(kw_only=True)
class RunFolder:
    """The folder of this run while it is held by this process (or, on other ranks, by rank 0)."""

    path: Path
    config: RunConfig
    resumes: Path | None  # the checkpoint to start from
    changes: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # accepted on the way, oldest first
    accepted: dict[str, Any] | None = None  # the last of them if it is accepted by this process (rank 0)

    def check_data(self, sources: Mapping[str, Source]) -> dict[str, Any]:
        """Return what describes the data (by its part: train, validation, images), the same on every rank.

        Raises UserError on every rank if the ranks see different data, or if the run was started on other data and
        train.accept does not say that the change is meant. Every rank calls it.
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
        """Raise UserError on every rank if a run from before there was data.json would hold out other clips than it
        did: it would train on some of them. train.accept says that this is meant. Every rank calls it."""
        fault, file = None, self.path / HELD_OUT_FILE
        if rank() == 0 and self.resumes is not None and not (self.path / DATA_FILE).is_file() and file.is_file():
            before = read_json(file, list, "the names of the clips that the run holds out")
            if before != names and self.config.train.accept not in ("data", "all"):
                fault = (
                    f"{self.path} holds out {len(before)} clips ({', '.join(map(str, before[:3]))}), and now it would be "
                    f"{', '.join(names[:3])}; expected the same data to resume. If its folder has train/ and val/, an earlier "
                    "version trained on both: data.format=folder does so still. If the change is meant, train.accept=data"
                )
        stop_together(fault)

    def keep_data(self, found: dict[str, Any]) -> None:
        """Write RUN/data.json, as the run is trained on these data from here on."""
        write_json(self.path / DATA_FILE, {"data": found, "changes": self.changes})

    def _compare(self, found: dict[str, Any], step: int) -> None:
        """Compare with what the run was started on; note a change that is accepted, else raise UserError."""
        if self.resumes is None:
            return
        before, self.changes = _read_data(self.path)
        difference = None if before is None else _difference(before, found)
        if difference is None:
            return
        if self.config.train.accept not in ("data", "all"):
            raise UserError(
                f"{self.path} was trained on other data ({difference}); expected the same data to resume. For a new run "
                f"give another train.output (init.weights={self.path} starts from its weights); if the change is meant, "
                "train.accept=data"
            )
        log.warning("train.accept: from step %d on the data are others (%s)", step, difference)
        self.accepted = {"step": step, "what": "data", "before": before, "after": found}
        self.changes.append(self.accepted)


@contextlib.contextmanager
def open_run(config: RunConfig) -> Iterator[RunFolder]:
    """Hold the folder `train.output` for this run, from before anything is read from it to the end of the block.

    Raises UserError on every rank if the folder is not new, empty or a run of this kind, if another process writes it, or
    if its run was started with other settings. Every rank calls it.
    """
    run, kind = Path(config.train.output), kind_of(config)
    with contextlib.ExitStack() as stack:
        with together():
            if rank() == 0:
                _refuse_other_kind(run, kind)
                stack.enter_context(own_folder(run, kind, partial(_older_names, kind), f"hpm-video {kind}"))
        with together():
            resumes = resume_point(run)
            if resumes is not None:
                keep_older_behaviour(run, config)
                check_same_run(run, config, _step_of(resumes))
        yield RunFolder(path=run, config=config, resumes=resumes)


def _older_names(kind: str, path: Path) -> list[str] | None:
    """Return the names in the mark of a run of this kind from before there were marks: none; None for other folders."""
    return [] if find_older_kind(path) == kind else None


def _refuse_other_kind(run: Path, kind: str) -> None:
    mark = read_mark(run)
    found = find_older_kind(run) if mark is None else mark["made_by"]
    if found in ("pretrain", "finetune") and found != kind:
        raise UserError(f"{run} is a {found} run; expected another train.output to {kind}")


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _comparable(config: RunConfig) -> dict[str, Any]:
    """Return the keys that the ranks must agree on."""
    flat = {
        f"{section}.{name}": value
        for section, keys in dataclasses.asdict(config).items()
        for name, value in keys.items()
    }
    return {name: value for name, value in flat.items() if name not in FREE and name != "engine.num_threads"}


def keep_older_behaviour(run: Path, config: RunConfig) -> None:
    """Let a run of an earlier version resume as it was started: keys that it did not have get what it did, mostly their defaults,
    and keys whose default has changed since get the older one, if the run has it. Logs what it sets. Raises UserError."""
    tree, found, older = read_yaml(run / CONFIG), read_config(run), older_defaults(type(config))
    if type(found) is not type(config):
        return  # `check_same_run` says so
    for section in dataclasses.fields(config):
        keys = getattr(config, section.name)
        known = tree.get(section.name) if isinstance(tree, dict) else None
        if not isinstance(known, dict) or section.name in ("engine", "test"):
            continue
        for field in dataclasses.fields(keys):
            dotted, value = f"{section.name}.{field.name}", getattr(keys, field.name)
            before = getattr(getattr(found, section.name), field.name)
            if value == before or dotted in FREE:
                continue
            changed = older.get(section.name, {}).get(field.name, MISSING)
            if field.name not in known:
                log.info("%s=%s: the run was started before there was this key", dotted, before)
                setattr(keys, field.name, before)
            elif (value, before) == (field.default, changed):
                log.info("%s=%s: the default when the run was started", dotted, before)
                setattr(keys, field.name, before)


def _resolved(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the sections with the sizes that null stands for, which may be others in another version."""
    sections, size = dataclasses.asdict(config), resolve_size(config.model)
    model = sections["model"]
    model |= {name: value for name, value in size._asdict().items() if name in model}
    if model.get("predictor_depth", 0) is None:
        model["predictor_depth"] = size.decoder_depth
    return sections


def check_same_run(run: Path, config: RunConfig, step: int) -> None:
    """Raise UserError if a setting that changes what is computed differs from that of the run, which is at `step`.

    The length of a run may change with train.accept=steps: the schedules are those of the new length from there on.
    """
    found = read_config(run)
    if type(found) is not type(config):
        raise UserError(f"{run} is a {kind_of(found)} run; expected another train.output to {kind_of(config)}")
    before, now = _resolved(found), _resolved(config)
    for section, keys in now.items():
        for name, value in keys.items():
            dotted = f"{section}.{name}"
            if value == before[section][name] or dotted in FREE or section in ("engine", "test"):
                continue
            if dotted in LENGTH:
                _check_length(run, config, step, f"{dotted}: {value}", before[section][name])
                continue
            if (dotted, value, before[section][name]) == ("data.format", "folder", "auto"):
                if not (run / DATA_FILE).is_file():
                    continue  # what auto meant for a folder with train/ and val/
            raise UserError(
                f"{dotted}: {value}, but the run in {run} was started with {before[section][name]}; expected the same "
                f"to resume (--config {run / CONFIG} gives all of its settings), or another train.output for a new run"
            )


def _check_length(run: Path, config: RunConfig, step: int, given: str, before: Any) -> None:
    if config.train.accept not in ("steps", "all"):
        raise UserError(
            f"{given}, but the run in {run} was started with {before}; expected the same to resume. To make this run longer: "
            f"train.accept=steps (its learning rate and masks follow the new length from step {step} on); for a new run from "
            f"its weights: another train.output and init.weights={run}"
        )
    if config.train.steps is not None and config.train.steps < step:
        raise UserError(f"{given}, but the run in {run} is at step {step} already; expected at least {step}")


def _read_data(run: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Return the data and the accepted changes of a run. Of one from before there was data.json: what its results say of
    the training data, None if it has none."""
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
    log.warning("%s was written by an earlier version: whether it was trained on the same data cannot be checked", run)
    return None, []


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return in words in what the data differ; None if in nothing that both know."""
    for part, description in before.items():
        if part not in now:
            return f"no {part} data; before {description.get('num_rows')} rows"
        for name, what in (("num_rows", "rows"), ("fingerprint", "list of files"), ("content", "content of the files")):
            old, new = description.get(name), now[part].get(name)
            if old is not None and new is not None and old != new:
                return f"{part}, {what}: {old} before, {new} now"
    added = [part for part in now if part not in before] if len(before) > 1 else []
    return f"{added[0]} data are new" if added else None

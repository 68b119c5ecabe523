"""Distinguish run folders from other paths, and pretraining runs from fine-tuning runs, without loading a model."""

from collections.abc import Container
from pathlib import Path
from typing import Any

from hpm_video.errors import UserError
from hpm_video.reading import read_yaml

CONFIG, RESULTS, METRICS = "config.yaml", "results.json", "metrics.jsonl"
KINDS = {"pretrain": "pretraining", "finetune": "fine-tuning"}
STARTS = {  # the command that starts a run of each kind
    "pretrain": "hpm-video pretrain data.root=FOLDER train.output=RUN",
    "finetune": "hpm-video finetune data.root=DIR init.weights=PRETRAINED_RUN train.output=RUN",
}


def read_sections(run: Path, kind: str | None = None) -> dict[str, Any]:
    """Read the sections of RUN/config.yaml. Raises UserError if `run` is not a run folder (kind: the kind that the message
    asks for), or if the file cannot be read."""
    file = run / CONFIG
    if not file.is_file():
        raise UserError(_describe_foreign(run, kind))
    try:
        sections = read_yaml(file)
    except UserError as error:
        raise UserError(f"{error}; expected the configuration of a run") from error
    if not isinstance(sections, dict):
        raise UserError(f"{file}: holds no keys; expected the configuration of a run")
    return sections


def find_kind(run: Path) -> str:
    """Return pretrain or finetune. Raises UserError if `run` is not a run folder, or its config.yaml cannot be read."""
    return kind_of_sections(read_sections(run))


def find_older_kind(run: Path) -> str | None:
    """Return the kind of a run that was written before run folders had marks; None if the folder is not such a run."""
    if not (run / CONFIG).is_file() or not any((run / name).exists() for name in ("checkpoints", METRICS, RESULTS)):
        return None
    try:
        sections = read_yaml(run / CONFIG)
    except UserError:
        return None
    if not isinstance(sections, dict) or not {"data", "model", "optim", "train"} <= set(sections):
        return None
    return kind_of_sections(sections)


def kind_of(config: object) -> str:
    """Return the command that makes runs with this configuration: pretrain or finetune."""
    return kind_of_sections(vars(config))


def kind_of_sections(sections: Container[str]) -> str:
    """Return the command that makes runs with these sections: pretrain or finetune."""
    return "finetune" if "augment" in sections else "pretrain"


def check_run(run: Path, kind: str | None = None) -> dict[str, Any]:
    """Return the sections of a run's configuration. Raises UserError if `run` is not the folder of a run of this kind
    (None: of any kind); the message names the command that helps."""
    sections = read_sections(run, kind)
    found = kind_of_sections(sections)
    if kind == "pretrain" and found == "finetune":
        raise UserError(
            f"{run} is a fine-tuning run; expected the folder of a pretraining run. Try: hpm-video test {run}, or the run that "
            "it started from"
        )
    if kind == "finetune" and found == "pretrain":
        raise UserError(
            f"{run} is a pretraining run; expected the folder of a fine-tuning run. Try: hpm-video finetune data.root=DIR "
            f"init.weights={run}"
        )
    return sections


def check_finished(run: Path) -> None:
    """Raise UserError if a folder has no results.json, which a run writes at its end and reports read."""
    if (run / RESULTS).is_file():
        return
    if not (run / CONFIG).is_file():
        raise UserError(_describe_foreign(run))
    raise UserError(
        f"{run} has no {RESULTS}: the run has not finished. Rerun the command that started it to resume, then hpm-video "
        f"report {run}"
    )


def _describe_foreign(run: Path, kind: str | None = None) -> str:
    """Return a message: what this path is instead of a run folder (of this kind, None: of any kind), and what to do."""
    expected = f"expected the folder of a {KINDS[kind]} run" if kind else "expected the folder of a run"
    start = f"To make one: {STARTS[kind or 'pretrain']}"
    above = next((folder for folder in run.absolute().parents if (folder / CONFIG).is_file()), None)
    if above is not None:
        return f"{run} lies in a run folder; {expected}. Try {above}"
    if not run.exists():
        return f"{run} does not exist; {expected}. {start}"
    if not run.is_dir():
        return f"{run} is a file; {expected}. {start}"
    below = sorted(file.parent for file in run.glob(f"*/{CONFIG}"))
    if below:
        return f"{run} has no {CONFIG}; {expected}. Try {' or '.join(map(str, below[:3]))}"
    return f"{run} is not a run folder: it has no {CONFIG}; {expected}. {start}"

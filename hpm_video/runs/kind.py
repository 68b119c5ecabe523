"""Tell a run folder from other paths, and a pretraining run from a fine-tuning run, without loading a model."""

from collections.abc import Container
from pathlib import Path

from hpm_video.errors import UserError
from hpm_video.reading import read_yaml

CONFIG, RESULTS, METRICS = "config.yaml", "results.json", "metrics.jsonl"
KINDS = {"pretrain": "pretraining", "finetune": "fine-tuning"}
STARTS = {  # how a run of each kind comes into being
    "pretrain": "hpm-video pretrain data.root=FOLDER train.output=RUN",
    "finetune": "hpm-video finetune data.root=DIR init.weights=PRETRAINED_RUN train.output=RUN",
}


def find_kind(run: Path) -> str:
    """Return pretrain or finetune. Raises UserError if `run` is not a run folder, or its config.yaml cannot be read."""
    file = run / CONFIG
    if not file.is_file():
        raise UserError(_describe_foreign(run))
    try:
        sections = read_yaml(file)
    except UserError as error:
        raise UserError(f"{error}; expected the configuration of a run") from error
    if not isinstance(sections, dict):
        raise UserError(f"{file}: holds no keys; expected the configuration of a run")
    return _kind_of_sections(sections)


def find_older_kind(run: Path) -> str | None:
    """Return the kind of a run that was written before run folders had a mark; None if the folder is not such a run."""
    if not (run / CONFIG).is_file() or not any((run / name).exists() for name in ("checkpoints", METRICS, RESULTS)):
        return None
    try:
        sections = read_yaml(run / CONFIG)
    except UserError:
        return None
    if not isinstance(sections, dict) or not {"data", "model", "optim", "train"} <= set(sections):
        return None
    return _kind_of_sections(sections)


def kind_of(config: object) -> str:
    """Return the command that makes runs with such a configuration: pretrain or finetune."""
    return _kind_of_sections(vars(config))


def _kind_of_sections(sections: Container[str]) -> str:
    return "finetune" if "augment" in sections else "pretrain"


def check_run(run: Path, kind: str | None = None) -> None:
    """Raise UserError, which names the command that helps, if `run` is not the folder of a run of this kind; None: of any."""
    if not (run / CONFIG).is_file():
        raise UserError(_describe_foreign(run, kind))
    found = find_kind(run)
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


def check_finished(run: Path) -> None:
    """Raise UserError if a folder has no results.json, which a run writes at its end and a report reads."""
    if (run / RESULTS).is_file():
        return
    if not (run / CONFIG).is_file():
        raise UserError(_describe_foreign(run))
    raise UserError(
        f"{run} has no {RESULTS}: the run has not finished. Rerun the command that started it to resume, then hpm-video "
        f"report {run}"
    )


def _describe_foreign(run: Path, kind: str | None = None) -> str:
    """Say what a path is that is not a run folder (wanted: of this kind, None: of any), and what to do."""
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

"""Read and write what a run was started with: its configuration and the names of its classes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpm_video.config import FinetuneConfig, PretrainConfig, RunConfig, load_config, load_finetune_config
from hpm_video.config.schema import older_defaults
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.reading import brief, read_json
from hpm_video.runs.kind import CONFIG, check_run, kind_of_sections, read_sections


def save_classes(run: Path, classes: list[str]) -> None:
    """Write RUN/classes.json."""
    write_json(run / "classes.json", classes)


def load_classes(run: Path) -> list[str]:
    """Return the class names of a fine-tuning run. Raises UserError."""
    check_run(run, "finetune")
    file = run / "classes.json"
    classes = read_json(file, list, "the class names of the run. Rerun the command that started it")
    wrong = [name for name in classes if not isinstance(name, str)]
    if wrong or not classes:
        held = brief(wrong[0], 60) if wrong else "no name"
        raise UserError(f"{file} is damaged: it holds {held}; expected the class names of the run, as a JSON list")
    return classes


def read_config(run: Path, overrides: Iterable[str] = (), sections: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a run of either kind. Keys that its file lacks have the values that they had then.

    sections: those of `read_sections`, if the file has been read already. Raises UserError.
    """
    file, sections = run / CONFIG, read_sections(run) if sections is None else sections
    if kind_of_sections(sections) == "finetune":
        return load_finetune_config(file, overrides, older_defaults(FinetuneConfig, sections))
    return load_config(file, overrides, older_defaults(PretrainConfig, sections))


def load_run_config(run: Path, overrides: Iterable[str] = ()) -> PretrainConfig:
    """Return the configuration of a pretraining run. Raises UserError."""
    config = read_config(run, overrides, check_run(run, "pretrain"))
    assert isinstance(config, PretrainConfig)
    return config


def check_overrides(overrides: Iterable[str], *allowed: str) -> None:
    """Raise UserError for a key outside the sections `allowed` (data.*, ...): the run was trained with its own value."""
    for override in overrides:
        if not override.startswith(tuple(section.removesuffix("*") for section in allowed)):
            named = " and ".join(filter(None, [", ".join(allowed[:-1]), allowed[-1]]))
            raise UserError(f"{override}: only {named} keys can differ from the run's own")

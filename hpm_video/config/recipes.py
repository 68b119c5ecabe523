"""Find the recipes by name: settings of whole runs (configs/) and readers of data sets (datasets/).

In a checkout they lie beside the library. An installed package has copies of them in hpm_video/_recipes (setup.py).
"""

from pathlib import Path
from typing import Literal

from hpm_video.errors import UserError
from hpm_video.terminal import suggest

LIBRARY = Path(__file__).resolve().parents[1]
Job = Literal["pretrain", "finetune"]


def recipes_home() -> Path:
    """Return the folder of configs/ and datasets/. Raises UserError if the installation lacks them."""
    for home in (LIBRARY / "_recipes", LIBRARY.parent):
        if (home / "configs" / "pretrain").is_dir():
            return home
    raise UserError(
        f"{LIBRARY}: holds no recipes; expected those of the package. Try pip install --force-reinstall hpm-video"
    )


def list_configs(job: Job) -> list[str]:
    """Return the names that --recipe takes.

    >>> "ssv2_vitb" in list_configs("pretrain")
    True
    """
    return sorted(file.stem for file in (recipes_home() / "configs" / job).glob("*.yaml"))


def find_config(job: Job, name: str) -> Path:
    """Return the YAML file of a recipe. Raises UserError for an unknown name."""
    _check_name("--recipe", name, list_configs(job))
    return recipes_home() / "configs" / job / f"{name}.yaml"


def list_data_sets() -> list[str]:
    """Return the names of the data sets that have a recipe."""
    return sorted(file.parent.name for file in (recipes_home() / "datasets").glob("*/prepare.py"))


def find_data_recipe(name: str) -> Path:
    """Return the program that reads a data set. Raises UserError for an unknown name."""
    _check_name("NAME", name, list_data_sets())
    return recipes_home() / "datasets" / name / "prepare.py"


def _check_name(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(f"{what}: '{name}'; expected one of {', '.join(known)}{suggest(name, known)}")

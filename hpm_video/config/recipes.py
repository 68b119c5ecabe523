"""Find the recipes by name: settings of whole runs (configs/) and readers of data sets (datasets/).

In a checkout they are next to the library. An installed package has copies of them in hpm_video/_recipes (setup.py).
"""

from pathlib import Path
from typing import Literal

from hpm_video.errors import UserError
from hpm_video.terminal import suggest

LIBRARY = Path(__file__).resolve().parents[1]
Job = Literal["pretrain", "finetune"]


def find_home() -> Path | None:
    """Return the folder of configs/ and datasets/; None if the installation lacks them."""
    homes = (LIBRARY / "_recipes", LIBRARY.parent)
    return next((home for home in homes if (home / "configs" / "pretrain").is_dir()), None)


def recipes_home() -> Path:
    """Return the folder of configs/ and datasets/. Raises UserError if the installation lacks them."""
    home = find_home()
    if home is None:
        raise UserError(
            f"{LIBRARY}: holds no recipes; expected those of the package. Try pip install --force-reinstall hpm-video"
        )
    return home


def list_configs(job: Job) -> list[str]:
    """Return the names that --recipe takes.

    >>> "ssv2_vitb" in list_configs("pretrain")
    True
    """
    home = find_home()
    return [] if home is None else sorted(file.stem for file in (home / "configs" / job).glob("*.yaml"))


def find_config(job: Job, name: str) -> Path:
    """Return the YAML file of a recipe. Raises UserError for an unknown name."""
    home = recipes_home()
    _check_name("--recipe", name, list_configs(job))
    return home / "configs" / job / f"{name}.yaml"


def list_data_sets() -> list[str]:
    """Return the names of the data sets that have a recipe."""
    home = find_home()
    return [] if home is None else sorted(file.parent.name for file in (home / "datasets").glob("*/prepare.py"))


def find_data_recipe(name: str) -> Path:
    """Return the program that writes the manifest of a data set. Raises UserError for an unknown name."""
    home = recipes_home()
    _check_name("NAME", name, list_data_sets())
    return home / "datasets" / name / "prepare.py"


def _check_name(what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(f"{what}: '{name}'; expected one of {', '.join(known)}{suggest(name, known)}")

"""Recipes by name: in a checkout, and beside an installed library."""

from pathlib import Path

import pytest

from hpm_video.config import load_config, load_finetune_config, recipes
from hpm_video.errors import UserError

ROOT = Path(__file__).parents[2]


def test_every_file_has_a_name_and_loads() -> None:
    for job, load in (("pretrain", load_config), ("finetune", load_finetune_config)):
        names = recipes.list_configs(job)
        assert {f"{name}.yaml" for name in names} == {file.name for file in (ROOT / "configs" / job).iterdir()}
        for name in names:
            load(recipes.find_config(job, name), ["data.root=x", "train.output=x"], check=False)
    assert {file.parent.name for file in (ROOT / "datasets").glob("*/prepare.py")} == set(recipes.list_data_sets())


def test_packed_recipes_come_first_and_none_is_a_fault(tmp_path, monkeypatch) -> None:
    library = tmp_path / "hpm_video"
    monkeypatch.setattr(recipes, "LIBRARY", library)
    assert recipes.list_configs("pretrain") == [] == recipes.list_data_sets()  # help works all the same
    with pytest.raises(UserError, match="holds no recipes"):
        recipes.find_config("pretrain", "ssv2_vitb")
    for home in (tmp_path, library / "_recipes"):  # a foreign folder `configs` beside the library is not taken
        (home / "configs" / "pretrain").mkdir(parents=True)
        (home / "configs" / "pretrain" / f"{home.name}.yaml").touch()
    assert recipes.list_configs("pretrain") == ["_recipes"]
    with pytest.raises(UserError, match=r"--recipe: 'recipes'; expected one of _recipes. Did you mean '_recipes'\?"):
        recipes.find_config("pretrain", "recipes")

"""Keys by the names that other programs have for them."""

import pytest

from hpm_video.config import FinetuneConfig, PretrainConfig, load_config
from hpm_video.config.other_names import OTHER_NAMES
from hpm_video.config.schema import all_fields
from hpm_video.types import UserError

KEYS = {name for schema in (PretrainConfig, FinetuneConfig) for name, _ in all_fields(schema)}


def test_every_key_exists_and_no_other_name_is_one() -> None:
    assert set(OTHER_NAMES) <= KEYS
    pairs = {(key.split(".")[0], name) for key, names in OTHER_NAMES.items() for name in names.split()}
    assert not {".".join(pair) for pair in pairs} & KEYS


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("data.size", "data.frame_size_px"),
        ("size", "model.size"),
        ("input_size", "data.frame_size_px"),
        ("optim.lr", "optim.base_lr"),
        ("model.patch-size", "model.patch_px"),
        ("tubelet_size", "model.tubelet"),
        ("output_dir", "train.output"),
        ("data.batch_size", "optim.batch_size"),
        ("mask.ration", "mask.ratio"),
        ("data.strid", "data.stride"),
        ("accum_iter", "engine.micro_batch_size"),
    ],
)
def test_the_suggestion_is_the_key_that_was_meant(given, meant) -> None:
    with pytest.raises(UserError, match=f"unknown key '{given}'.*; did you mean '{meant}'"):
        load_config(None, ["data.root=x", f"{given}=1"])


def test_nothing_is_suggested_for_a_name_of_nothing() -> None:
    with pytest.raises(UserError, match="unknown key 'qqqq'.*; --help lists every key"):
        load_config(None, ["data.root=x", "qqqq=1"])


def test_the_form_of_a_list_is_shown() -> None:
    with pytest.raises(
        UserError, match=r"expected list of int, as in data.frame_size_px=\[224,224\]: height and width"
    ):
        load_config(None, ["data.root=x", "data.frame_size_px=64"])

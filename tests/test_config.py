"""The schema: what it refuses, in which words, and what it computes."""

import pytest

from hpm_video.config import _all_fields, describe_keys, load_config, mask_counts, to_yaml
from hpm_video.types import UserError

REQUIRED = ["data.root=x", "train.output=y"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.batchsize=3", ["unknown key 'optim.batchsize'", "optim.batch_size"]),
        ("lr=3", ["unknown key 'lr'"]),
        ("optim.batch_size=abc", ["optim.batch_size", "'abc'", "expected int"]),
        ("data.frame_size_px=[3,a]", ["data.frame_size_px", "'a'", "list of int"]),
        ("data.frame_size_px=[224]", ["data.frame_size_px", "[224]", "expected 2 values"]),
        ("mask.mode=hard", ["mask.mode", "'hard'", "hpm, predictor_only, random, inverted"]),
        ("mask.ratio=1.5", ["mask.ratio", "1.5", "expected 0"]),
        ("mask.ratio=1.0", ["mask.ratio", "leaves 0 visible"]),
        ("mask.ratio=0.001", ["mask.ratio", "0.001", "leaves 0 masked"]),
        ("data.num_frames=15", ["data.num_frames", "15", "model.tubelet 2", "14 or 16"]),
        ("data.frame_size_px=[224,230]", ["data.frame_size_px", "230", "224 or 240"]),
        ("model.positions=sincos2d", ["model.positions", "8 steps in time"]),
        ("mask.hard_share_start=0.9", ["mask.hard_share_start", "0.9", "0.5"]),
        ("objective.ranking_weight=0", ["objective.ranking_weight", "expected above 0"]),
        ("data.root", ["expected KEY=VALUE"]),
    ],
)
def test_bad_value_names_key_value_and_expectation(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [*REQUIRED, override])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_block_must_divide_the_grid() -> None:
    with pytest.raises(UserError, match=r"mask.block: .*3 does not divide the 14 tokens in height"):
        load_config(None, [*REQUIRED, "mask.unit=block", "mask.block=[1,3,2]"])


def test_missing_root_says_what_it_is() -> None:
    with pytest.raises(UserError, match="data.root is not set: expected folder"):
        load_config(None, ["train.output=y"])


def test_file_errors(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("data: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")


def test_written_configuration_reads_back(tmp_path) -> None:
    config = load_config(None, [*REQUIRED, "mask.ratio=0.8", "optim.clip_norm=1.5", "data.frame_size_px=[64,96]"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_help_lists_every_key_with_its_default() -> None:
    text = describe_keys()
    for name, _ in _all_fields():
        assert name in text
    assert "optim.base_lr" in text and "0.00015" in text


def test_every_shipped_configuration_loads() -> None:
    from pathlib import Path

    files = sorted((Path(__file__).parent.parent / "configs" / "pretrain").glob("*.yaml"))
    assert len(files) >= 3
    for file in files:
        load_config(file, REQUIRED)


def test_videomae_counts() -> None:
    assert mask_counts(load_config(None, REQUIRED)) == (196, 176)

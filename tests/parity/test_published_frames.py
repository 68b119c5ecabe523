"""WHEN: data.rule=videomae against the frames that VideoMAE's own datasets took (frames.txt), for videos of 1 to 301 frames."""

from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import DataConfig, FinetuneConfig, PretrainConfig, load_config, load_finetune_config
from hpm_video.config.data_sets import DATA_SETS, SamplingProtocol
from hpm_video.data.sampling import sample_frames
from hpm_video.evals.finetuned.views import choose_frames

CONFIGS = Path(__file__).parents[2] / "configs"
GIVEN = ["data.root=x", "train.output=x"]
DRAWS_PER_START = 12  # enough for each seeded sequence below to reach every start of 301 frames


def read_table() -> dict[str, dict[int, list[int]]]:
    table: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for line in Path(__file__).with_name("frames.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, numbers = line.split(": ")
            what, length = name.split()
            table[what][int(length)] = [int(number) for number in numbers.split()]
    return table


TABLE = read_table()
LENGTHS = sorted(TABLE["ssv2-test-0"])


@cache
def recipe(kind: str, key: str) -> PretrainConfig | FinetuneConfig:
    load = load_config if kind == "pretrain" else load_finetune_config
    return load(CONFIGS / kind / f"{key}_vitb.yaml", GIVEN)


def protocol_for(key: str) -> SamplingProtocol:
    return DATA_SETS["kinetics" if key == "k400" else key].protocol


def views_of(key: str, length: int) -> list[list[int]]:
    """As `hpm-video test` takes them for a run of the recipe of this set."""
    data, protocol = recipe("finetune", key).data, protocol_for(key)
    assert data.sampling == "auto"
    chosen = choose_frames(protocol.sampling, length, protocol.num_clips, data)
    return chosen.reshape(protocol.num_clips, data.num_frames).tolist()


def test_the_table_is_whole() -> None:
    assert len(LENGTHS) == 24 and {len(rows) for rows in TABLE.values()} == {24}
    assert len(TABLE) == 2 + 3 + 2 + 8


def test_views_of_a_test() -> None:
    for length in LENGTHS:
        found = {key: views_of(key, length) for key in ("ssv2", "k400", "ucf101", "hmdb51")}
        assert found["ssv2"] == [TABLE["ssv2-test-0"][length], TABLE["ssv2-test-1"][length]], length
        assert [view[0] for view in found["k400"]] == TABLE["k400-test-starts"][length], length
        for number in (0, 2, 4):
            assert found["k400"][number] == TABLE[f"k400-test-{number}"][length], length
        assert found["ucf101"] == found["k400"]
        assert [view[0] for view in found["hmdb51"]] == TABLE["hmdb51-test-starts"][length], length


def drawn(sampling: str, length: int, config: DataConfig, finetuning: bool, num_starts: int) -> np.ndarray:
    """[draws, T]"""
    rng, draws = np.random.default_rng(length), DRAWS_PER_START * (num_starts + 1)
    return np.stack([sample_frames(sampling, length, config, rng, finetuning=finetuning) for _ in range(draws)])


def test_segments_to_finetune_on() -> None:
    data = recipe("finetune", "ssv2").data
    for length in LENGTHS:
        clips = drawn(protocol_for("ssv2").sampling, length, data, True, num_starts=length // 16)
        assert clips.min(0).tolist() == TABLE["ssv2-train-first"][length], length
        assert clips.max(0).tolist() == TABLE["ssv2-train-last"][length], length


@pytest.mark.parametrize(
    ("what", "kind", "key"),
    [("k400-train", "finetune", "k400"), ("pretrain4", "pretrain", "k400"), ("pretrain2", "pretrain", "ssv2")],
)
def test_dense_clips(what, kind, key) -> None:
    """All starts from the first to the last of the table, each as likely as the others; the frames of each as in the table."""
    data = recipe(kind, key).data
    for length in LENGTHS:
        first, last = (np.array(TABLE[f"{what}-{end}"][length]) for end in ("first", "last"))
        num_starts = int(last[0] - first[0]) + 1
        clips = drawn("dense", length, data, kind == "finetune", num_starts)
        starts, counts = np.unique(clips[:, 0], return_counts=True)
        assert starts.tolist() == list(range(first[0], last[0] + 1)), length
        assert num_starts == 1 or counts.max() < 4 * DRAWS_PER_START, length
        assert (clips - clips[:, :1] == first - first[0]).all() and (last - last[0] == first - first[0]).all(), length


def test_pretraining_recipes_sample_as_published() -> None:
    for key, stride in (("ssv2", 2), ("k400", 4)):
        data = recipe("pretrain", key).data
        assert (data.sampling, data.stride, data.flip) == ("dense", stride, False), key
        assert data.rule == "videomae"
        assert (data.crop, data.crop_scales, data.num_frames) == ("multiscale", [1.0, 0.875, 0.75, 0.66], 16)


def test_our_own_rule_stays_the_default() -> None:
    """The departure that docs/departures.md tells: ours reach the last frames, and spread the views over the whole video."""
    config = DataConfig(root="x")
    assert config.rule == "even"
    assert choose_frames("segments", 32, 2, config).tolist() == [*range(0, 32, 2), *range(1, 32, 2)]
    assert choose_frames("segments", 64, 2, config)[:3].tolist() == [1, 5, 9]  # theirs: 0, 4, 8
    assert choose_frames("dense", 301, 5, config)[-1] == 300 and choose_frames("dense", 300, 5, config)[-1] == 299
    assert max(sample_frames("dense", 65, config, np.random.default_rng(s))[-1] for s in range(200)) == 64


def test_one_view_of_the_rule_is_in_every_video() -> None:
    config = DataConfig(root="x", rule="videomae")
    for sampling in ("segments", "dense"):
        for length in LENGTHS:
            frames = sample_frames(sampling, length, config, None)
            assert len(frames) == 16 and 0 <= frames.min() and frames.max() < length and (np.diff(frames) >= 0).all()

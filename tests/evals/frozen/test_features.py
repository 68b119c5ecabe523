"""Poolings, and clips in memory."""

import time

import numpy as np
import pytest
import torch

from hpm_video.data import dataset
from hpm_video.data.source import open_source
from hpm_video.evals.frozen.clips import load_clips
from hpm_video.evals.frozen.features import default_pooling, encode, extract_features, first_weights, from_space, pool
from hpm_video.types import UserError


def test_poolings() -> None:
    latent, grid = torch.randn(2, 1 + 12, 5), (3, 2, 2)
    tokens = latent[:, 1:]
    by_time = tokens.view(2, 3, 4, 5).mean(2)
    assert torch.allclose(pool(latent, grid, "mean"), tokens.mean(1), atol=1e-6)
    assert torch.allclose(pool(tokens, grid, "space"), by_time)
    assert torch.equal(pool(latent, grid, "tokens").flatten(1, 3), tokens)
    assert torch.equal(pool(latent, grid, "cls"), latent[:, 0])
    still = tokens[:, :4].repeat(1, 3, 1)
    assert pool(still, grid, "motion").abs().max() < 1e-6
    for pooling in ("mean", "motion", "space"):
        assert torch.allclose(from_space(by_time, pooling), pool(tokens, grid, pooling), atol=1e-6)
    with pytest.raises(UserError, match="expected one of mean, space"):
        pool(tokens, grid, "max")
    with pytest.raises(UserError, match="no class token"):
        pool(tokens, grid, "cls")


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (1, 3, 8, 16, 16), (1, 3, 2, 16, 16), (1, 1, 4, 16, 16)])
def test_clips_of_another_size_have_no_features(tiny_config, shape) -> None:
    config = tiny_config()
    with pytest.raises(UserError, match=r"clip: .*; expected \[B, 3, "):
        encode(first_weights(config), torch.zeros(shape, dtype=torch.uint8), config.data)


def test_one_time_step_has_no_motion(tiny_config) -> None:
    assert default_pooling(tiny_config(image=True)) == "mean" and default_pooling(tiny_config()) == "motion"


def test_clips_in_memory_are_those_of_the_files(labelled_set, tiny_config) -> None:
    (labelled_set / "train3.mkv").write_bytes(b"not a video")
    config = tiny_config(data__root=str(labelled_set), data__num_workers=1)
    before = torch.get_rng_state()
    clips = load_clips(open_source(config.data, "train"), config.data)
    assert torch.equal(torch.get_rng_state(), before)
    assert [f.path for f in clips.failures] == ["train3.mkv"] and "train3.mkv" not in clips.paths
    assert clips.clip.shape == (23, 3, 4, 16, 16) and len(clips.paths) == 23
    for clip, label in zip(clips.clip, clips.labels, strict=True):
        assert clip[label].float().mean() > clip[1 - label].float().mean() + 80
    features = extract_features(first_weights(config), clips, config.data, "mean", batch_size=5)
    assert features.values.shape == (23, 32) and np.isfinite(features.values).all()


def test_many_unreadable_files_stop_and_none_readable_too(labelled_set, tiny_config) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0)
    source = open_source(config.data, "train")
    for number in range(3):
        (labelled_set / f"train{number}.mkv").write_bytes(b"not a video")
    with pytest.raises(
        UserError, match="3 of 24 samples could not be read, more than data.max_bad_share 0.05 .*hpm-video scan"
    ):
        load_clips(source, config.data)
    with pytest.raises(UserError, match="none of the 2 samples"):
        load_clips(source, config.data, [0, 2])


def test_file_that_hangs_its_reader_is_named(labelled_set, tiny_config, monkeypatch) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=1, data__time_limit_s=0.5)
    source, read = open_source(config.data, "train"), dataset.read_item

    def hang(item, *more):
        return time.sleep(60) if item.name == "train4.mkv" else read(item, *more)

    monkeypatch.setattr(dataset, "read_item", hang)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # how long an end waits for workers
    clips = load_clips(source, config.data)
    assert [tuple(f) for f in clips.failures] == [("train4.mkv", "no answer within 0.5 s")] and len(clips.paths) == 23
    assert clips.paths == [f"train{n}.mkv" for n in range(24) if n != 4]

"""Features on disk: when they are found again, and what an interruption costs."""

import os
import shutil

import numpy as np
import pytest

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.source import open_source
from hpm_video.evals.frozen.cache import cached_features, describe, key_of
from hpm_video.evals.frozen.clips import load_clips
from hpm_video.evals.frozen.features import extract_features, first_weights
from hpm_video.preprocess.pack import pack


@pytest.fixture()
def reads(monkeypatch) -> list[int]:
    """Rows that are read, as they are."""
    seen, read = [], ClipDataset.read_frames

    def spy(self, row, rng):
        seen.append(row)
        return read(self, row, rng)

    monkeypatch.setattr(ClipDataset, "read_frames", spy)
    return seen


def test_cached_features_are_those_in_memory(labelled_set, tiny_config, tmp_path, reads) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0)
    (labelled_set / "train3.mkv").write_bytes(b"not a video")
    source, encoder = open_source(config.data, "train"), first_weights(config).eval()
    direct = extract_features(encoder, load_clips(source, config.data), config.data, "motion")
    del reads[:]
    for pooling in ("motion", "mean", "space"):
        found = cached_features(tmp_path / "features", encoder, source, config, pooling, rows_per_part=10)
        assert found.paths == direct.paths and (found.labels == direct.labels).all()
        assert found.failures == direct.failures and len(found.groups) == 23 and found.groups[0] == "camera 0"
        if pooling == "motion":
            np.testing.assert_allclose(found.values, direct.values, atol=1e-5)
    assert reads == list(range(24))  # once for all three


def test_key_changes_with_what_changes_the_features(labelled_set, tiny_config) -> None:
    def key(weights=None, split="train", pooling="space", **overrides) -> str:
        config = tiny_config(data__root=str(labelled_set), **overrides)
        encoder = first_weights(config)
        if weights is not None:
            next(encoder.parameters()).data.view(-1)[0] += weights
        return key_of(describe(encoder, open_source(config.data, split), config, pooling))

    same = {
        key(),
        key(data__num_workers=0),
        key(data__time_limit_s=5.0),
        key(data__max_bad_share=0.5),
        key(data__flip=True),
    }
    other = [key(weights=1e-3), key(split="validation"), key(pooling="tokens"), key(data__sampling="dense")]
    other += [key(data__fps=5.0), key(data__mean=[0.5, 0.5, 0.5]), key(model__num_heads=4), key(train__seed=1)]
    os.utime(labelled_set / "train5.mkv", (1, 1))
    other.append(key())
    text = (labelled_set / "train.csv").read_text()
    (labelled_set / "train.csv").write_text(text.replace("train0.mkv,0", "train0.mkv,1"))
    other.append(key())
    assert len(same) == 1 and len(set(other) | same) == len(other) + 1


def test_interrupted_extraction_goes_on(labelled_set, tiny_config, tmp_path, reads, monkeypatch) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0)
    source, encoder = open_source(config.data, "train"), first_weights(config).eval()
    whole = cached_features(tmp_path / "whole", encoder, source, config, "mean", rows_per_part=5)
    (broken,) = (tmp_path / "whole").glob("*/part-00000015.safetensors")
    monkeypatch.setattr("hpm_video.evals.frozen.cache.CLIPS_PER_BATCH", 4)
    del reads[:]
    with monkeypatch.context() as patch:
        inner = ClipDataset.read_frames
        patch.setattr(ClipDataset, "read_frames", lambda s, row, rng: inner(s, row, rng) if row < 20 else interrupt())
        with pytest.raises(KeyboardInterrupt):
            cached_features(tmp_path / "features", encoder, source, config, "mean", rows_per_part=5)
    done = sorted(f.name for f in (tmp_path / "features").glob("*/part-*"))
    assert done == [f"part-{n:08d}.safetensors" for n in range(0, 5 * len(done), 5)] and 0 < len(done) < 5
    del reads[:]
    resumed = cached_features(tmp_path / "features", encoder, source, config, "mean", rows_per_part=5)
    assert reads == list(range(5 * len(done), 24))
    assert np.array_equal(resumed.values, whole.values) and resumed.paths == whole.paths
    broken.write_bytes(broken.read_bytes()[:-8])
    del reads[:]
    again = cached_features(tmp_path / "whole", encoder, source, config, "mean", rows_per_part=5)
    assert reads == list(range(15, 20)) and np.array_equal(again.values, whole.values)


def interrupt():
    raise KeyboardInterrupt


def test_tokens_are_kept_in_half_precision(labelled_set, tiny_config, tmp_path) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0)
    source, encoder = open_source(config.data, "validation"), first_weights(config).eval()
    found = cached_features(tmp_path, encoder, source, config, "tokens")
    assert found.values.dtype == np.float16 and found.values.shape == (12, 2 * 4 * 4 * 32)
    space = cached_features(tmp_path, encoder, source, config, "space").values.reshape(12, 2, 32)
    np.testing.assert_allclose(found.values.astype(np.float32).reshape(12, 2, 16, 32).mean(2), space, atol=2e-3)


def test_shards_give_the_same_features_until_they_are_packed_anew(labelled_set, tiny_config, tmp_path) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0)
    encoder, found = first_weights(config).eval(), {}
    for root in (labelled_set, tmp_path / "shards", tmp_path / "shards"):
        if root != labelled_set:
            shutil.rmtree(root, ignore_errors=True)
            pack(DataConfig(root=str(labelled_set)), str(root), 5, 0, 1)
        source = open_source(DataConfig(root=str(root)), "validation")
        features = cached_features(tmp_path / "features", encoder, source, config, "mean")
        found[features.key] = {
            name: (v.tolist(), c) for name, v, c in zip(features.paths, features.values, features.labels, strict=True)
        }
    assert len(found) == 3 and len(set(map(str, (sorted(f.items()) for f in found.values())))) == 1

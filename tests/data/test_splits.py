"""The splits as each stage opens them, and sets that cannot be used."""

import pytest

from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig
from hpm_video.data.manifest import write_manifest
from hpm_video.data.source import Source
from hpm_video.data.splits import check_labels, find_labelled, open_labelled, open_scored, open_tested, open_unlabelled
from hpm_video.types import UserError


@pytest.fixture()
def make(tmp_path):
    """make(train=[labels], ...) -> the configuration of a manifest with these splits."""

    def make(classes=("a", "b"), **labels) -> DataConfig:
        splits = {s: [Row(f"{s}/{n}.mp4", k) for n, k in enumerate(ks)] for s, ks in labels.items()}
        write_manifest(tmp_path, "mine", tmp_path, splits, list(classes))
        return DataConfig(root=str(tmp_path), num_held_out=2)

    return make


def names(source: Source) -> list[str]:
    return [source.name(row) for row in range(len(source))]


def test_without_a_validation_split_samples_are_held_out_by_the_seed(make, caplog) -> None:
    config = make(train=[0, 1] * 4)
    train, held = open_unlabelled(config, 0)
    assert len(held) == 2 and sorted(names(train) + names(held)) == [f"train/{n}.mp4" for n in range(8)]
    assert names(open_labelled(config, 0)[1]) == names(held) == names(open_tested(config, "auto", 0)[1])
    assert "has no validation split: 2 samples are held out" in caplog.text
    assert find_labelled(config) is None
    with pytest.raises(UserError, match="has no validation split; expected labels"):
        open_scored(config)


def test_the_split_to_test_on(make) -> None:
    config = make(train=[0, 1], validation=[1, 0], test=[-1])
    assert open_tested(config, "auto", 0)[0] == "validation"  # the test split has no labels
    assert [len(part) for part in open_scored(config)] == [2, 2]
    with pytest.raises(UserError, match="1 of 1 samples have no label"):
        open_tested(config, "test", 0)
    config = make(train=[0, 1], test=[1])
    assert open_tested(config, "auto", 0)[0] == "test"
    with pytest.raises(UserError, match="test.split: validation, but .* has no validation split"):
        open_tested(config, "validation", 0)


def test_labels_that_cannot_be_trained_on(make, caplog) -> None:
    with pytest.raises(UserError, match="one class, 'a'; expected labels"):
        open_labelled(make(classes=["a"], train=[0]), 0)
    check_labels(open_unlabelled(make(train=[0, 0, 0], validation=[1]), 0)[0], "training")
    assert "1 of 2 classes have no training sample: b" in caplog.text

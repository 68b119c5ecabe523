"""Folders of classes, and drawing a validation split."""

from collections import Counter

import pytest

from hpm_video.catalog.class_folders import hold_out_share, read_class_folders
from hpm_video.catalog.rows import Found, Row
from hpm_video.types import UserError


@pytest.fixture()
def tree(tmp_path):
    for name in ("a b.mp4", "c.mp4", "d.png", "f/img_9.jpg", "f/img_10.jpg", "f/img_11.JPG", "f/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_class_folders_count_from_the_sorted_names(tree) -> None:
    assert read_class_folders(tree / "f", (".jpg",)).classes == []
    with pytest.raises(UserError, match="a b.mp4 lies beside class folders"):
        read_class_folders(tree, (".mp4", ".jpg"))
    assert read_class_folders(tree, (".jpg",)).splits["train"][0] == Row("f/img_10.jpg", 0)


@pytest.mark.parametrize("pattern", ["", r"g\d+"])
def test_held_out_share(pattern) -> None:
    rows = [Row(f"{k}/g{n // 4}_{n}.mp4", k) for k in range(3) for n in range(40)]
    rows.append(Row("3/only.mp4", 3))
    drawn = [hold_out_share(Found({"train": rows}, [], {}), 0.25, seed, pattern).splits for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for splits in drawn:
        train, held = splits["train"], splits["validation"]
        assert sorted(r.path for r in train + held) == sorted(r.path for r in rows)
        assert abs(len(held) - 30) <= (6 if pattern else 1)
        assert set(Counter(r.label for r in train)) == {0, 1, 2, 3}
        assert not pattern or not ({r.group for r in train} & {r.group for r in held} - {""})


def test_share_and_pattern_that_cannot_be() -> None:
    found = Found({"train": [Row("a"), Row("b")]}, [], {})
    for share, pattern, words in ((1.0, "", "0 to 1"), (0.5, "(", "expected a regular expression")):
        with pytest.raises(UserError, match=words):
            hold_out_share(found, share, 0, pattern)


def test_folders_that_look_like_splits_are_no_classes(tmp_path) -> None:
    for name in ("videos_train/a.mp4", "videos_val/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        UserError, match="videos_train and videos_val look like splits, not like classes; expected train/"
    ):
        read_class_folders(tmp_path)
    assert len(read_class_folders(tmp_path, unlabelled=True).splits["train"]) == 2

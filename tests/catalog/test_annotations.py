"""Trees and lists, read into rows: what is guessed of a list, the order of frames, and drawing a validation split."""

from collections import Counter

import pytest

from hpm_video.catalog.annotations import (
    FileIndex,
    Found,
    Row,
    hold_out_share,
    list_frames,
    read_class_folders,
    read_lines,
)
from hpm_video.catalog.path_lists import read_lists
from hpm_video.types import UserError


@pytest.fixture()
def tree(tmp_path):
    for name in ("a b.mp4", "a,b.mp4", "c.mp4", "d.png", "f/img_9.jpg", "f/img_10.jpg", "f/img_11.JPG", "f/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("c.mp4\na b.mp4", [Row("c.mp4"), Row("a b.mp4")]),
        ("a b.mp4 0\nc.mp4 1\n", [Row("a b.mp4", 0), Row("c.mp4", 1)]),
        ("a,b.mp4 0\nc.mp4 1\n", [Row("a,b.mp4", 0), Row("c.mp4", 1)]),
        ("a b.mp4,0\r\nc.mp4, 1\r\n", [Row("a b.mp4", 0), Row("c.mp4", 1)]),
        ('"a,b.mp4",0\nc.mp4,1', [Row("a,b.mp4", 0), Row("c.mp4", 1)]),
        ("a b.mp4\trun fast\nc.mp4\tjump", [Row("a b.mp4", 1), Row("c.mp4", 0)]),
        ("c.mp4 run\nd.png jump", [Row("c.mp4", 1), Row("d.png", 0, 1)]),
        ("\ufeffPath Label\n\nc.mp4 0", [Row("c.mp4", 0)]),
        ("id,video,frames,label,group\n1,c.mp4,30,0,k1", [Row("c.mp4", 0, 30, group="k1")]),
        ("c.mp4 0 -1\nf 10 -1", [Row("c.mp4"), Row("f", -1, 2, first_frame=1)]),
        ("f 2 0", [Row("f", 0, 2)]),
        ("f 10 11 0\nf 9 9 1", [Row("f", 0, 2, first_frame=1), Row("f", 1, 1)]),
        ("path offset total label\nf 1 1 0", [Row("f", 0, 1, first_frame=1)]),
    ],
)
def test_what_a_list_is_read_as(tree, text, rows) -> None:
    (tree / "list").write_bytes(text.encode())
    found = read_lists(tree, {"train": tree / "list"})
    assert found.splits["train"] == rows and not found.missing


def test_frames_that_are_not_there(tree) -> None:
    (tree / "list").write_text("f 10 12 0\nf 11 9 0\nf 9 9 0\n")
    (tree / "g").mkdir()
    found = read_lists(tree, {"train": tree / "list"})
    assert found.splits["train"] == [Row("f", 0, 1)] and len(found.missing["train"]) == 2
    (tree / "list").write_text("g 3 0\nf 4 0\nf 3 0")
    assert [text.split(" ", 3)[3] for text in read_lists(tree, {"train": tree / "list"}).missing["train"]] == [
        "g (holds no image)", "f (holds 3 images; expected those from 1 to 4)"
    ]  # fmt: skip


def test_classes_are_those_of_all_splits(tree) -> None:
    (tree / "one").write_text("c.mp4,b")
    (tree / "two").write_text("a b.mp4,a")
    found = read_lists(tree, {"train": tree / "one", "validation": tree / "two"})
    assert found.classes == ["a", "b"] and found.splits["validation"][0].label == 0


def test_unknown_columns_and_another_coding(tree) -> None:
    (tree / "list").write_bytes(b"caf\xe9.mp4 0")
    with pytest.raises(UserError, match="list: not UTF-8"):
        read_lists(tree, {"train": tree / "list"})
    with pytest.raises(UserError, match="columns path,lable; expected path and some of path,label"):
        read_lists(tree, {"train": tree / "list"}, ("path", "lable"))


def test_lines_are_numbered_from_one_and_blank_ones_count(tmp_path) -> None:
    (tmp_path / "x").write_text("a\n\n  \nb\u2028c\n", encoding="utf-8")
    assert read_lines(tmp_path / "x", "") == [(1, "a"), (4, "b\u2028c")]


def test_frames_are_in_the_order_of_their_numbers(tree) -> None:
    assert list_frames(tree / "f") == ["img_9.jpg", "img_10.jpg", "img_11.JPG"]


def test_index_finds_a_file_with_its_folder_or_without(tmp_path) -> None:
    for name in ("x/run/1.avi", "x/jump/1.avi"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    index = FileIndex(tmp_path)
    assert index.find("run/1") == "x/run/1.avi" and index.find("gone", "1") == "x/jump/1.avi"
    assert index.find("gone") is None


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

"""A folder as data.root: its splits are used, lists beside the files are named, and a wrong root says what to do."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from hpm_video.config import DataConfig
from hpm_video.data.source import open_source
from hpm_video.terminal import one_line
from hpm_video.types import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def paths(root: Path, split: str = "train", **more) -> list[str] | None:
    source = open_source(DataConfig(root=str(root), **more), split)
    return None if source is None else source.paths


@pytest.mark.parametrize(
    ("train", "validation"), [("train", "val"), ("train", "validation"), ("Training", "valid"), ("train", "dev")]
)
def test_train_and_val_are_splits(tmp_path, caplog, train, validation) -> None:
    touch(tmp_path, f"{train}/x/a.mp4", f"{train}/b.mp4", f"{validation}/x/c.mp4", "test/d.mp4", "more/e.mp4")
    with caplog.at_level(logging.INFO, "hpm_video"):
        assert paths(tmp_path) == [f"{train}/b.mp4", f"{train}/x/a.mp4"]
    assert f"{validation}/ is the validation split" in caplog.text and "more beside them is not used" in caplog.text
    assert "data.format=folder trains on all of it" in caplog.text
    assert paths(tmp_path, "validation") == [f"{validation}/x/c.mp4"] and paths(tmp_path, "test") == ["test/d.mp4"]
    assert len(paths(tmp_path, format="folder")) == 5 and paths(tmp_path, "validation", format="folder") is None


def test_train_alone_or_an_empty_val_is_no_split(tmp_path) -> None:
    touch(tmp_path, "train/a.mp4", "car/b.mp4")  # class folders
    assert paths(tmp_path) == ["car/b.mp4", "train/a.mp4"] and paths(tmp_path, "validation") is None
    touch(tmp_path, "val/notes.txt")
    assert paths(tmp_path) == ["train/a.mp4"] and paths(tmp_path, "validation") is None


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("videos_train/x/a.mp4", "videos_val/x/b.mp4"),
            "those in videos_val/ too.*data.root={root}/videos_train. Folders",
        ),
        (("train_256/a.mp4", "val_256/b.mp4", "test_256/c.mp4"), "those in val_256/ and test_256/ too"),
        (("train/a.mp4", "eval/b.mp4"), "those in eval/ too.*data.root={root}/train"),
        (("data/train/a.mp4", "data/val/b.mp4"), "those of all splits in data/ too.*data.root={root}/data"),
    ],
)
def test_folders_that_look_like_splits_are_named(tmp_path, caplog, names, words) -> None:
    touch(tmp_path, *names)
    assert len(paths(tmp_path)) == len(names)
    assert re.search(words.format(root=tmp_path), caplog.text), caplog.text
    caplog.clear()
    assert len(paths(tmp_path, format="folder")) == len(names) and not caplog.text


@pytest.mark.parametrize("names", [("a/a.mp4", "b/b.mp4"), ("train/a.mp4", "eval/x.txt"), ("train/a.mp4", "bus/b.mp4")])
def test_other_folders_are_not_taken_for_splits(tmp_path, caplog, names) -> None:
    touch(tmp_path, *names)
    assert paths(tmp_path) and not caplog.text
    touch(tmp_path, "train set/a.mp4", *(f"{name}/a.mp4" for name in ("test drive", "c", "d", "e", "f")))
    assert paths(tmp_path) and not caplog.text  # many folders are classes


def test_a_warning_of_splits_stops_nothing(tmp_path, caplog, monkeypatch) -> None:
    touch(tmp_path, "a/train/a.mp4", "a/val/b.mp4", "a/valid/c.mp4", "b.mp4")
    (tmp_path / "lost+found").mkdir()
    listdir = os.listdir

    def refuse(path=".") -> list[str]:
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert len(paths(tmp_path)) == 4 and f"To use the splits: data.root={tmp_path}/a" in caplog.text


def test_two_folders_for_a_split(tmp_path) -> None:
    touch(tmp_path, "train/a.mp4", "val/b.mp4", "valid/c.mp4")
    with pytest.raises(UserError, match="holds both val/ and valid/"):
        paths(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train.csv", "val.csv"], "--train {root}/train.csv --validation {root}/val.csv, then data.root={root}/manifest"),
        (["train_list.txt", "val_list.txt", "test_list.txt"], "--validation {root}/val_list.txt --test {root}/test_list.txt"),
        (["metadata.csv"], "--train {root}/metadata.csv"),
        (["metadata.jsonl"], "--train {root}/metadata.jsonl"),
        (["annotations.txt"], "--train {root}/annotations.txt"),
        (["Diving48_V2_train.json", "Diving48_V2_test.json"], "--test {root}/Diving48_V2_test.json"),
        (["labels.csv"], "every file is a training sample without label. To use them"),
        (["manifest/manifest.json"], "data.root={root}/manifest uses it"),
    ],
)  # fmt: skip
def test_lists_beside_the_videos_are_named(tmp_path, caplog, names, words) -> None:
    touch(tmp_path, "a.mp4", *names)
    assert paths(tmp_path) == ["a.mp4"]
    assert words.format(root=tmp_path) in caplog.text
    caplog.clear()
    assert paths(touch(tmp_path / "plain", "a.mp4", "notes.txt", "README.md")) == ["a.mp4"] and not caplog.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.csv", b"a.mp4,0\n", r"is a file \(a list\).*hpm-video data csv {root} --train {root}/list.csv"),
        ("list.jsonl", b"{}", r"\(a list\).*hpm-video data csv"),
        ("a.mp4", b"\0\0\0\x20ftyp", r"\(a video\); expected the folder that holds the videos: data.root={root}"),
        ("a.png", b"\x89PNG", r"\(an image\)"),
        ("a.tar", b"a.mp4" + bytes(252) + b"ustar", r"a.tar: truncated header; expected a whole tar"),
        ("a.tar.gz", b"\x1f\x8b\x08", r"\(a tar archive\)"),
        ("a.zip", b"PK\x03\x04", r"\(a zip archive\)"),
        ("a.parquet", b"PAR1", r"\(a Parquet table\)"),
        ("a.yaml", b"data:\n", r"--config {root}/a.yaml"),
        ("manifest.json", b"{}", r"expected the folder that holds it: data.root={root}"),
    ],
)
def test_a_file_as_root_says_what_it_is(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words.format(root=tmp_path)):
        paths(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a-000000.tgz", "a-000001.tgz"], r"holds no video; .* It holds archives \(2 .tgz\): unpack them"),
        (["a-000000.tar", "a-000001.tar"], r"a-000000.tar: truncated header; expected a whole tar"),
        (["a.parquet"], r"It holds tables \(1 .parquet\)"),
        (["x/1.jpg", "x/2.jpg"], r"It holds images \(2 .jpg\).*data.num_frames=1 .*hpm-video data csv"),
        (["x.vob", "README"], "It holds 1 .vob, 1 without an ending"),
        ([".hidden.mp4"], "It holds no file that is not hidden"),
    ],
)
def test_a_folder_without_videos_says_what_it_holds(tmp_path, names, words) -> None:
    with pytest.raises(UserError, match=words):
        paths(touch(tmp_path, *names))


def test_near_names_of_a_missing_root(tmp_path) -> None:
    touch(tmp_path, "kinetics/a.mp4")
    with pytest.raises(UserError, match=f"kinetcs does not exist; did you mean {tmp_path}/kinetics"):
        paths(tmp_path / "kinetcs")
    with pytest.raises(UserError, match="not-there/x does not exist; expected a folder of videos"):
        paths(tmp_path / "not-there" / "x")


def test_annotations_that_are_a_list(tmp_path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    with pytest.raises(
        UserError, match=f"train.csv is a file; .*hpm-video data csv {tmp_path} --train {tmp_path}/train.csv"
    ):
        paths(tmp_path, annotations=str(tmp_path / "train.csv"))
    with pytest.raises(UserError, match="data.annotations: .*none does not exist"):
        paths(tmp_path, annotations=str(tmp_path / "none"))


def test_samples_are_called_what_they_are(tmp_path) -> None:
    touch(tmp_path, "v/a.mp4", "i/b.png")
    for part, kind in (("v", "videos"), ("i", "images"), (".", "samples")):
        source = open_source(DataConfig(root=str(tmp_path / part), num_frames=1), "train")
        assert source.kind == kind
    with pytest.raises(UserError, match="holds no video and no image"):
        paths(touch(tmp_path / "e", "notes.txt"), num_frames=1)


def latin1(folder: Path, name: bytes = b"caf\xe9.mp4") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")


def test_names_that_are_not_utf8_are_left_out_and_named(tmp_path, caplog) -> None:
    latin1(touch(tmp_path / "v", "a.mp4"))
    assert paths(tmp_path / "v") == ["a.mp4"]
    assert r"1 of 2 files have a name that is not UTF-8 (caf\udce9.mp4)" in caplog.text
    latin1(tmp_path / "w")
    with pytest.raises(UserError, match=r"1 of 1 files have a name that is not UTF-8 \(caf\\udce9.mp4\); .*convmv"):
        paths(tmp_path / "w")


def test_names_that_are_not_utf8_in_ssv2s_layout(tmp_path) -> None:
    latin1(touch(tmp_path / "videos", "1.webm"))
    (tmp_path / "labels.json").write_text('{"Moving something": "0"}')
    (tmp_path / "train.json").write_text(json.dumps([{"id": "1", "template": "Moving [something]"}]))
    assert paths(tmp_path) == ["videos/1.webm"]


def test_names_in_messages_are_one_line() -> None:
    assert one_line("a\nb\x1b[31m\udce9é打") == r"a\nb\x1b[31m\udce9é打"

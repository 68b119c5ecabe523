"""Tars in webdataset's convention: each sample is the bytes that the tar holds, with its label and its split."""

import io
import json
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.config import DataConfig
from hpm_video.data.manifest import write_manifest
from hpm_video.data.readers.read import read_item
from hpm_video.data.source import open_source
from hpm_video.errors import UserError
from hpm_video.files import cache_folder
from hpm_video.preprocess.encode import write_video

RECIPE = Path(__file__).parents[2] / "datasets" / "webdataset" / "prepare.py"


def put_tar(file: Path, *members: tuple[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def put_set(root: Path) -> dict[str, tuple[bytes, int]]:
    """Three tars for training with 5, 7 and 1 samples, one for validation; return name -> content, label."""
    expected = {}
    for tar, count in (("shard-000", 5), ("shard-001", 7), ("shard-002", 1), ("shard-val-000", 2)):
        members = []
        for number in range(count):
            key, content = f"clips/{tar}_{number}", bytes([number]) * (700 + 300 * number)
            label = (number + count) % 3
            members += [(f"{key}.cls", f"{label}\n".encode()), (f"{key}.jpg", b"thumb"), (f"{key}.MP4", content)]
            members += [(f"{key}.json", json.dumps({"fps": 10, "action": "abc"[label], "n": number}).encode())]
            expected[f"{tar}.tar/{key}.MP4"] = content, label
        put_tar(root / f"{tar}.tar", *members)
    return expected


def held(source) -> dict[str, tuple[bytes, int]]:
    items = [source.item(row) for row in range(len(source))]
    return {item.name: (item.media, item.label) for item in items}


def opened(root: object, split: str = "train", **more):
    return open_source(DataConfig(root=str(root), **more), split)


def test_each_sample_is_read_once_with_label_and_split(tmp_path) -> None:
    expected = put_set(tmp_path)
    train, validation = opened(tmp_path), opened(tmp_path, "validation")
    assert held(train) | held(validation) == expected and len(train) == 13 and len(validation) == 2
    assert train.classes == ["0", "1", "2"] and opened(tmp_path, "test") is None
    assert train.source.endswith(f"{tmp_path} (train)") and train.kind == "samples"
    order = train.order
    assert sorted(order.row(0, 0, place) for place in range(13)) == list(range(13))
    assert [train.name(row) for row in range(13)] != sorted(
        n for n in expected if "val" not in n
    )  # held out: the last rows
    part = opened(tmp_path / "shard-{000..001}.tar")
    assert {name.split("/")[0] for name in held(part)} == {"shard-000.tar", "shard-001.tar"}
    assert len(opened(tmp_path / "shard-{000,002}.tar")) == 6 and len(opened(tmp_path / "shard-00?.tar")) == 13
    assert len(opened(tmp_path / "shard-val-000.tar")) == 2  # a single tar is for training
    with pytest.raises(UserError, match=r"1 of 4 tars do not exist, .*shard-003.tar"):
        opened(tmp_path / "shard-{000..003}.tar")


def test_the_index_is_kept_and_follows_a_change(tmp_path, monkeypatch) -> None:
    put_set(tmp_path)
    opened(tmp_path)
    cache = cache_folder("tars")
    before = set(cache.iterdir())
    monkeypatch.setattr(tarfile, "open", None)  # nothing is read again
    assert len(opened(tmp_path)) == 13
    monkeypatch.undo()
    put_tar(tmp_path / "shard-002.tar", ("a.mp4", b"new"), ("b.mp4", b"other"))
    assert {name: media for name, (media, _) in held(opened(tmp_path)).items() if "002" in name} == {
        "shard-002.tar/a.mp4": b"new", "shard-002.tar/b.mp4": b"other"
    }  # fmt: skip
    assert len(set(cache.iterdir()) - before) == 1
    monkeypatch.setenv("HPM_VIDEO_CACHE", "")
    with pytest.raises(UserError, match="HPM_VIDEO_CACHE is empty.*datasets/webdataset/prepare.py"):
        opened(tmp_path)


def test_real_videos_in_split_folders(tmp_path) -> None:
    write_video(tmp_path / "v.mkv", np.full((3, 16, 16, 3), 40, np.uint8), 10)
    film = (tmp_path / "v.mkv").read_bytes()
    put_tar(
        tmp_path / "set/train/0.tar",
        ("a.mkv", film),
        ("a.json", b'{"label": "run"}'),
        ("b.mkv", film),
        ("b.json", b'{"label": "jump"}'),
    )
    put_tar(tmp_path / "set/val/0.tar", ("a.mkv", film), ("a.json", b'{"label": "run"}'))
    train = opened(tmp_path / "set")
    assert train.classes == ["jump", "run"] and opened(tmp_path / "set", "validation").item(0).label == 1
    frames = read_item(train.item(0), lambda count: np.arange(count))
    assert frames.shape == (3, 16, 16, 3) and (frames == 40).all()


def test_a_folder_of_videos_with_a_tar_is_what_it_was(tmp_path) -> None:
    put_tar(tmp_path / "notes.tar", ("a.txt", b"x"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"x")
    assert list(opened(tmp_path).paths) == ["a/1.mp4"]


def test_a_manifest_beside_a_tar_comes_first(tmp_path) -> None:
    put_tar(tmp_path / "set/notes.tar", ("a.mp4", b"x"))
    (tmp_path / "b.mp4").write_bytes(b"x")
    write_manifest(tmp_path / "set", "clips", tmp_path, {"train": [Row("b.mp4")]}, [])
    assert list(opened(tmp_path / "set").paths) == ["b.mp4"]


def test_images(tmp_path) -> None:
    put_tar(tmp_path / "0.tar", ("a.jpg", b"image"), ("b.b.png", b"other"))
    with pytest.raises(UserError, match="0.tar and 0 more tars hold no video"):
        opened(tmp_path)
    source = opened(tmp_path, num_frames=1)
    assert {item.name: item.num_frames for item in map(source.item, range(2))} == {"0.tar/a.jpg": 1, "0.tar/b.b.png": 1}


def run_recipe(monkeypatch, capsys, *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPE), run_name="__main__")
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


def test_the_recipe_chooses_the_label(tmp_path, monkeypatch, capsys) -> None:
    expected = put_set(tmp_path / "tars")
    status, said = run_recipe(monkeypatch, capsys, tmp_path / "tars", "--label", "action")
    assert status == 0 and f"data.root={tmp_path}/tars/manifest" in said
    (tmp_path / "tars").rename(tmp_path / "moved")  # the index names the tars relative to itself
    source = opened(tmp_path / "moved/manifest")
    assert source.classes == ["a", "b", "c"] and held(source).items() <= expected.items()
    words = (monkeypatch, capsys, tmp_path / "moved/shard-00{0,2}.tar", "--out", tmp_path / "out")
    assert run_recipe(*words, "--label", "none")[0] == 0 and len(opened(tmp_path / "out")) == 6
    assert {label for _, label in held(opened(tmp_path / "out")).values()} == {-1}
    assert "--label colour: no sample has it" in run_recipe(*words, "--label", "colour")[1]
    assert "no tars; expected a folder" in run_recipe(monkeypatch, capsys, tmp_path / "out")[1]


def test_labels_that_make_no_classes_are_left_out(tmp_path, caplog) -> None:
    put_tar(tmp_path / "0.tar", ("a.mp4", b"x"), ("a.cls", b"run"), ("b.mp4", b"y"), ("b.cls", b"3"))
    source = opened(tmp_path)
    assert source.classes == [] and {label for _, label in held(source).values()} == {-1}
    assert "0.tar/b: label '3'; expected" in caplog.text or "label 'run'; expected a number" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08 packed", "0.tar: .*; expected a whole tar that is not compressed"),
        (b"", "0.tar: .*; expected a whole tar"),
    ],
)
def test_a_file_that_is_no_tar(tmp_path, content, words) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


def test_a_label_of_many_bytes_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hpm_video.data.tars.MOST_LABEL_BYTES", 100)
    put_tar(tmp_path / "a.tar", ("1.mp4", b"x" * 1000), ("1.json", b"{" + b" " * 100 + b"}"))
    with pytest.raises(UserError, match=r"a.tar, 1.json has 102 bytes; expected a label of at most 100"):
        opened(tmp_path)


def test_a_tar_that_is_cut_off(tmp_path) -> None:
    put_tar(tmp_path / "0.tar", ("a.mp4", b"x" * 4000))
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:2000])
    with pytest.raises(UserError, match="0.tar: .*; expected a whole tar"):
        opened(tmp_path)


def test_other_commands_say_what_they_cannot_do(tmp_path, capsys) -> None:
    put_set(tmp_path / "tars")
    for words in (["scan", tmp_path / "tars", "--out", tmp_path / "o"], ["pack", tmp_path / "tars", tmp_path / "p"]):
        assert main(list(map(str, words))) == 1
    said = capsys.readouterr().err
    assert "It holds archives" in said and "holds shards already" in said

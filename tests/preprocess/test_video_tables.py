"""Data sets in the layouts that `datasets` and the hub have; nothing is fetched."""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from hpm_video.config import DataConfig
from hpm_video.data.readers.read import read_item
from hpm_video.data.source import open_source
from hpm_video.preprocess.encode import write_video

RECIPE = Path(__file__).parents[2] / "datasets" / "huggingface" / "prepare.py"
VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture()
def recipe(monkeypatch, capsys, tmp_path):
    """recipe(ROOT, ...) -> (exit status, all that it printed), run in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(RECIPE), run_name="__main__")
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    return run


def put_table(file: Path, rows: list[dict], features: dict | None = None) -> None:
    """A table as `Dataset.push_to_hub` writes it: the kinds of the columns are in its metadata."""
    kinds = {"video": VIDEO} | {
        name: pa.int64() if isinstance(v, int) else pa.string() for name, v in rows[0].items() if name != "video"
    }
    schema = pa.schema(list(kinds.items()))
    if features is not None:
        schema = schema.with_metadata(
            {"huggingface": json.dumps({"info": {"features": {"video": {"_type": "Video"}} | features}})}
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file, row_group_size=2)


def film(tmp_path: Path, grey: int) -> bytes:
    write_video(tmp_path / "film.mkv", np.full((3, 16, 16, 3), grey, np.uint8), 10)
    return (tmp_path / "film.mkv").read_bytes()


def opened(out: Path, split: str = "train"):
    return open_source(DataConfig(root=str(out)), split)


def greys(source) -> list[tuple[int, int]]:
    """Of each sample the grey of its frames, and its label."""
    items = [source.item(row) for row in range(len(source))]
    return [(int(read_item(item, lambda count: np.arange(count)).mean()), item.label) for item in items]


def put_set(root: Path, tmp_path: Path) -> None:
    label = {"label": {"_type": "ClassLabel", "names": ["run", "jump"]}}
    for number in range(2):
        rows = [
            {"caption": "x", "video": {"bytes": film(tmp_path, 10 + 30 * k), "path": f"{k}.mkv"}, "label": k % 2}
            for k in (number, number + 2, 4)
        ]
        put_table(root / f"data/train-0000{number}-of-00002.parquet", rows, label)
    put_table(
        root / "data/test-00000-of-00001.parquet",
        [{"caption": "y", "video": {"bytes": film(tmp_path, 200), "path": None}, "label": 1}],
        label,
    )


def test_videos_in_tables_become_files(recipe, tmp_path) -> None:
    root, out = tmp_path / "set", tmp_path / "set/manifest"
    put_set(root, tmp_path)
    status, said = recipe(root)
    assert status == 0, said
    assert greys(opened(out)) == [(10, 0), (70, 0), (130, 0), (40, 1), (100, 1), (130, 0)]
    assert greys(opened(out, "test")) == [(200, 1)] and opened(out).classes == ["run", "jump"]
    assert opened(out).paths[0] == "train/0000000.mkv" and opened(out, "test").paths[0] == "test/0000000.mp4"
    before = {file: file.stat().st_mtime_ns for file in (root / "manifest_videos").rglob("*.mkv")}
    assert recipe(root)[0] == 0 and {file: file.stat().st_mtime_ns for file in before} == before  # they stay
    assert recipe(root, "--label", "caption", "--out", tmp_path / "out")[0] == 0
    assert opened(tmp_path / "out").classes == ["x", "y"]
    assert "--label colour:" in recipe(root, "--label", "colour")[1]


def test_another_video_of_the_same_size_is_not_kept(recipe, tmp_path) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    contents = [film(tmp_path, 10), b"\0" * len(film(tmp_path, 10))]
    for content in contents:  # the same data set, of another revision
        put_table(root / "data/train.parquet", [{"video": {"bytes": content, "path": "a.mkv"}}])
        status, said = recipe(root, "--out", out)
        assert status == 0, said
        assert (Path(f"{out}_videos") / "train/0000000.mkv").read_bytes() == content


def test_damaged_tables(recipe, tmp_path) -> None:
    file = tmp_path / "set/train.parquet"
    put_table(file, [{"video": {"bytes": film(tmp_path, 10), "path": f"{n}.mkv"}, "action": "run"} for n in range(9)])
    content = bytearray(file.read_bytes())
    footer = 8 + int.from_bytes(content[-8:-4], "little")
    content[4:-footer] = bytes(len(content) - footer - 4)  # its schema is whole, its columns are not
    file.write_bytes(content)
    status, said = recipe(tmp_path / "set")
    assert status == 1 and "train.parquet: " in said and "; expected a whole Parquet table" in said
    kind = pa.struct([("bytes", pa.string()), ("path", pa.string())])
    parquet.write_table(pa.table({"video": pa.array([{"bytes": "text", "path": "a"}], kind)}), file)
    assert recipe(tmp_path / "set")[0] == 1  # text is no video


def test_rows_without_bytes_and_tables_of_other_programs(recipe, tmp_path) -> None:
    rows = [
        {"video": {"bytes": None, "path": "gone.mp4"}, "action": "b"},
        {"video": {"bytes": film(tmp_path, 90), "path": "a.MKV"}, "action": "a"},
    ]
    put_table(tmp_path / "set/part.parquet", rows)
    status, said = recipe(tmp_path / "set")
    assert status == 0 and "train: 1 of 2 rows have no file" in said
    assert greys(opened(tmp_path / "set/manifest")) == [(90, 0)] and opened(tmp_path / "set/manifest").classes == [
        "a",
        "b",
    ]
    (tmp_path / "set/part.parquet").write_bytes(b"PAR1")
    assert "part.parquet: " in (said := recipe(tmp_path / "set")[1]) and "expected a Parquet table" in said


def test_files_with_metadata_or_in_folders(recipe, tmp_path) -> None:
    for name in ("train/1.mp4", "train/2.mp4", "test/3.mp4"):
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"x")
    (tmp_path / "a/train/metadata.csv").write_text("file_name,label\n1.mp4,run\n2.mp4,jump\n")
    (tmp_path / "a/test/metadata.csv").write_text("file_name,label\n3.mp4,run\n")
    assert recipe(tmp_path / "a")[0] == 0
    assert (
        list(opened(tmp_path / "a/manifest").labels) == [1, 0]
        and opened(tmp_path / "a/manifest", "test").paths[0] == "test/3.mp4"
    )
    for folder in ("train", "test"):
        (tmp_path / "a" / folder / "metadata.csv").unlink()
    rows = [{"file_name": f"train/{n}.mp4", "label": "ab"[n % 2]} for n in (1, 2)]
    (tmp_path / "a/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recipe(tmp_path / "a")[0] == 0 and list(opened(tmp_path / "a/manifest").labels) == [1, 0]
    (tmp_path / "b/videos").mkdir(parents=True)
    (tmp_path / "b/videos/1.mp4").write_bytes(b"x")
    assert recipe(tmp_path / "b")[0] == 0 and opened(tmp_path / "b/manifest").classes == []
    (tmp_path / "b/more").mkdir()
    (tmp_path / "b/more/2.mp4").write_bytes(b"x")
    assert recipe(tmp_path / "b")[0] == 0 and opened(tmp_path / "b/manifest").classes == ["more", "videos"]


def test_a_data_set_of_the_hub(recipe, tmp_path, monkeypatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    put_set(tmp_path / "cache", tmp_path)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **b: asked.append((a, b)) or str(tmp_path / "cache")
    )
    status, said = recipe("hf://datasets/org/clips@v1")
    assert status == 0 and asked == [(("org/clips",), {"repo_type": "dataset", "revision": "v1"})]
    assert "data.root=manifests/org_clips" in said and len(opened(Path("manifests/org_clips"))) == 6
    assert sorted(os.listdir(tmp_path / "cache")) == ["data"]  # nothing is written there

    def refuse(*_, **__):
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    status, said = recipe("hf://datasets/org/clips")
    assert status == 1 and "hf://datasets/org/clips: 401 Client Error; expected" in said and "hf auth login" in said
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "Try: pip install huggingface_hub" in recipe("hf://datasets/org/clips")[1]
    assert "is not a folder" in recipe(tmp_path / "nowhere")[1]

"""LeRobot's layout with real films; what the recipe writes is read frame by frame."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from hpm_video.catalog.lerobot import read_lerobot
from hpm_video.config import DataConfig
from hpm_video.data.readers.read import read_item
from hpm_video.data.source import open_source
from hpm_video.errors import UserError
from hpm_video.preprocess.encode import write_video

FPS = 30
LENGTHS = (7, 5, 9)  # frames of the episodes; the first two are in one film
TOP, WRIST = "observation.images.top", "observation.images.wrist"
RECIPE = Path(__file__).parents[2] / "datasets" / "lerobot" / "prepare.py"


def put_set(root: Path, **more) -> None:
    """Frame k of the data set is of the grey 10 + 10 k, so that a frame names itself."""
    grey = np.arange(sum(LENGTHS), dtype=np.uint8)[:, None, None, None] * 10 + 10
    frames = np.broadcast_to(grey, (len(grey), 16, 16, 3))
    for camera in (TOP, WRIST):
        for number, part in enumerate((slice(0, 12), slice(12, 21))):
            file = root / f"videos/{camera}/chunk-000/file-{number:03d}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_video(file, frames[part], FPS)
    rows, seconds = [], 0.0
    for episode, (length, file) in enumerate(zip(LENGTHS, (0, 0, 1), strict=True)):
        start = 0.0 if episode in (0, 2) else seconds
        seconds = start + length / FPS + 1e-4  # as rounding to float32 moves the times of a film of an hour
        row = {"episode_index": episode, "tasks": ["Pick the cube" if episode else "Open the door"], "length": length}
        for camera in (TOP, WRIST):
            told = {"chunk_index": 0, "file_index": file, "from_timestamp": start, "to_timestamp": seconds}
            row |= {f"videos/{camera}/{key}": value for key, value in told.items()}
        rows.append(row | {"stats/action/max": [1.0]})
    (root / "meta/episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    video = {"dtype": "video", "shape": [16, 16, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "chunks_size": 1000,
        "splits": {"train": "0:2", "val": "2:3"},
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {TOP: video, WRIST: video, "action": {"dtype": "float32", "shape": [2]}},
    }
    (root / "meta/info.json").write_text(json.dumps(info | more))


def frames_of(item) -> list[int]:
    """The numbers of the frames of a sample, counted over the whole data set."""
    found = read_item(item, lambda count, *_: np.arange(count))
    return [round((int(frame.mean()) - 10) / 10) for frame in found]


def test_episodes_of_one_film_are_its_frames(tmp_path, monkeypatch, capsys) -> None:
    put_set(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path), "--camera", TOP])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().err
    train, held = (open_source(DataConfig(root=str(tmp_path / "manifest")), s) for s in ("train", "validation"))
    assert [frames_of(train.item(row)) for row in range(2)] == [list(range(7)), list(range(7, 12))]
    assert frames_of(held.item(0)) == list(range(12, 21))
    assert train.classes == ["Open the door", "Pick the cube"] and list(train.labels) == [0, 1]
    assert train.groups([0, 1]) == ["episode 0", "episode 1"]


def test_all_cameras_and_one_task(tmp_path) -> None:
    put_set(tmp_path, splits={"train": "0:3"})
    (tmp_path / f"videos/{WRIST}/chunk-000/file-001.mp4").unlink()
    found = read_lerobot(tmp_path)
    assert [row.path.split("/")[1] for row in found.splits["train"]] == [TOP, WRIST, TOP, WRIST, TOP]
    assert found.missing == {"train": [f"episode 2: videos/{WRIST}/chunk-000/file-001.mp4"]}
    assert found.splits["train"][3][-2:] == (round(6.5 / 30, 6), round(11.5 / 30, 6))


def test_episodes_without_a_split_are_counted(tmp_path) -> None:
    put_set(tmp_path, splits={"train": "0:1", "val": "2:9999999999999"})
    found = read_lerobot(tmp_path, (TOP,))
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 1, "validation": 1}
    assert found.notes == ("1 of 3 episodes are in no split of info.json; left out: 1",)


def test_without_splits_every_episode_is_for_training(tmp_path) -> None:
    put_set(tmp_path, splits=None)
    file = tmp_path / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(file).to_pylist()
    parquet.write_table(pa.Table.from_pylist(table[1:]), file)  # a part of a set keeps the numbers of its episodes
    assert len(read_lerobot(tmp_path, (TOP,)).splits["train"]) == 2


def test_version_2_has_a_film_for_each_episode(tmp_path) -> None:
    path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    put_set(tmp_path, video_path=path, splits=None, chunks_size=1)
    tasks = [{"episode_index": n, "tasks": ["Pick the cube"], "length": 9} for n in range(2)]
    (tmp_path / "meta/episodes.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    for number in range(2):
        file = tmp_path / path.format(episode_chunk=number, video_key=TOP, episode_index=number)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    found = read_lerobot(tmp_path, (TOP,))
    assert found.classes == [] and [row[-2:] for row in found.splits["train"]] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("more", "cameras", "words"),
    [
        ({}, ("front",), f"info.json: no video of front; expected some of: {TOP}, {WRIST}"),
        ({"features": {}}, (), "no video of any camera; expected some of: no feature is a video"),
        ({"video_path": "videos/{name}.mp4"}, (), "episode 0 of .*KeyError.*expected video_path and fps"),
        ({"fps": 0}, (), "expected video_path and fps"),
        ({"splits": {"train": "all"}}, (), 'splits .*; expected as in {"train": "0:50"}'),
        ({"splits": {"most": "0:3"}}, (), "most"),
        ({"splits": {"train": "0:1", "val": 2}}, (), "expected as in"),
        ({"features": {"a": 3}}, (), "no video of any camera"),
        ({"chunks_size": "many"}, (), "episode 0 of .*ValueError.*expected video_path and fps"),
        ({"fps": 1e999}, (), "info.json.*Infinity is not a number"),
        ({"video_path": "{episode_index:999999999}"}, (), "ValueError.*expected video_path and fps"),
        ({"video_path": "{video_key.__class__}"}, (), "ValueError.*expected video_path and fps"),
    ],
)
def test_faults_of_a_set_are_named(tmp_path, more, cameras, words) -> None:
    put_set(tmp_path, **more)
    with pytest.raises(UserError, match=words):
        read_lerobot(tmp_path, cameras)


def test_a_set_without_episodes(tmp_path) -> None:
    put_set(tmp_path)
    (tmp_path / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="file-000.parquet: .*; expected the list of episodes as a Parquet table"):
        read_lerobot(tmp_path)
    (tmp_path / "meta/episodes/chunk-000/file-000.parquet").unlink()
    with pytest.raises(UserError, match="lists no episodes"):
        read_lerobot(tmp_path)

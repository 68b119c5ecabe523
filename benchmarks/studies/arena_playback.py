"""Make clips of real videos played forward, reversed, frozen or at double speed; this is their class.

A folder holds videos and a table labels.csv with the columns `path` and `fold` (0 to 4; a camera is in one fold only).
"""

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from arena_clips import NUM_FRAMES, SIDE, Material, random_stream, shrink
from numpy import ndarray

from hpm_video.data.readers.read import read_frames
from hpm_video.errors import UserError

NUM_FOLDS = 5
PLAYBACK = {  # class -> frames of a window of 15
    "forward": np.arange(NUM_FRAMES),
    "reversed": np.arange(NUM_FRAMES)[::-1],
    "frozen": np.full(NUM_FRAMES, NUM_FRAMES // 2),
    "double speed": 2 * np.arange(NUM_FRAMES),
}
WINDOW = 1 + max(int(frames.max()) for frames in PLAYBACK.values())


def split_videos(folder: Path, split: str, seed: int) -> list[Path]:
    """Return the videos of a split, sorted: fold `seed % 5` is the test. Raises UserError for a folder without them."""
    table = folder / "labels.csv"
    if not table.is_file():
        raise UserError(f"{table}: not found; expected a table with the columns path and fold")
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"path", "fold"} <= rows[0].keys():
        raise UserError(f"{table}: lacks columns or rows; expected a table with the columns path and fold")
    chosen = [row["path"] for row in rows if (int(row["fold"]) == seed % NUM_FOLDS) == (split == "test")]
    if not chosen:
        raise UserError(f"{table}: no video of fold {seed % NUM_FOLDS}; expected folds 0 to {NUM_FOLDS - 1}")
    return [folder / path for path in sorted(chosen)]


@lru_cache(maxsize=1000)
def read_video(file: Path) -> ndarray:
    """Return uint8 [T, 64, 64, 3]: the central square of each frame of a video. Cached in memory."""
    return shrink(_central_square(read_frames(file, np.arange)))


@lru_cache(maxsize=1000)
def read_still(file: Path, side: int) -> ndarray:
    """Return uint8 [side, side, 3]: the central square of the first frame of a video. Cached in memory."""
    return shrink(_central_square(read_frames(file, lambda _: np.array([0]))), side)[0]


def _central_square(frames: ndarray) -> ndarray:
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side]


def make_playback(kind: str, split: str, seed: int, count: int, folder: Path | None) -> Material:
    """Return windows of videos, each played in all four ways. Test windows are spread evenly.

    Raises UserError without a folder, or if no video has 15 frames.
    """
    if folder is None:
        raise UserError(f"{kind}: needs real clips; expected a folder of videos with labels.csv")
    rng = random_stream(kind, split, seed)
    videos = [video for file in split_videos(folder, split, seed) if len(video := read_video(file)) >= WINDOW]
    if not videos:
        raise UserError(f"{folder}: no video of {WINDOW} frames or more; expected longer ones")
    num_windows = -(-count // len(PLAYBACK))
    rounds = -(-num_windows // len(videos))
    clips = np.empty((num_windows, len(PLAYBACK), NUM_FRAMES, SIDE, SIDE, 3), np.uint8)
    for number in range(num_windows):
        video = videos[number % len(videos)]
        last = len(video) - WINDOW
        share = (number // len(videos) + 0.5) / rounds if split == "test" else rng.random()
        start = min(int(share * (last + 1)), last)
        for way, frames in enumerate(PLAYBACK.values()):
            clips[number, way] = video[start + frames]
    classes = np.tile(np.arange(len(PLAYBACK)), num_windows)[:count]
    return Material(torch.from_numpy(clips.reshape(-1, NUM_FRAMES, SIDE, SIDE, 3)[:count]), {}, {"playback": classes})

"""Write a small procedural video set in the format of Something-Something V2.

    python datasets/synthetic/prepare.py OUT --train 1600 --validation 600

OUT/labels.json, train.json, validation.json, 20bn-something-something-v2/ID.mp4 (every eighth is .webm).
It has six of SSv2's classes. On a plain background a two-coloured shape moves by about a tenth of the frame, or grows or
shrinks by about a fifth from end to end. Colours, shape, size, place and angle have the same distribution in all classes,
and the path is symmetric about the middle of the clip. So neither the middle frame nor a frame at an unknown time
distinguishes the two classes of a pair of opposites. The first and the last frame leak a little (the demo measures it). Every
frame is coded alone, as inter-frame coding leaves traces of the motion.
"""

import argparse
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np

from hpm_video.cores import num_free_cores
from hpm_video.files import remove_drafts, replacing, write_json
from hpm_video.own_folder import all_names, own_folder
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.recipe import print_lines

FOLDER = "20bn-something-something-v2"
ANNOTATIONS = ("labels.json", "validation.json", "train.json")
FPS = 12
TEMPLATES = (
    "Pushing [something] from left to right",
    "Pushing [something] from right to left",
    "Moving [something] down",
    "Moving [something] up",
    "Moving [something] closer to the camera",
    "Moving [something] away from the camera",
)
SHAPES = ("disc", "square", "triangle")


def draw_clip(label: int, rng: np.random.Generator, num_frames: int, size_px: int) -> np.ndarray:
    """Draw uint8 [T, size_px, size_px, 3] of the class `label`."""
    ground, left, right = _draw_colours(rng)
    shape = int(rng.integers(len(SHAPES)))
    sign = 1 - 2 * (label % 2)
    time = np.linspace(-0.5, 0.5, num_frames)[:, None, None]  # [T, 1, 1]
    travel = sign * time * AMPLITUDE * rng.uniform(0.8, 1.2)
    x, y = (rng.uniform(0.05, 0.95) + (travel if label // 2 == axis else 0 * time) for axis in (0, 1))
    radius = (
        0.1
        * 3.0 ** rng.uniform()
        * np.exp((sign * time * 2 * math.log(GROWTH) * rng.uniform(0.8, 1.2)) * (label // 2 == 2))
    )
    angle = rng.uniform(0, 2 * math.pi)
    place = (np.arange(size_px) + 0.5) / size_px
    dx, dy = place[None, None, :] - x, place[None, :, None] - y  # [T, H, W] after broadcasting
    u = (math.cos(angle) * dx + math.sin(angle) * dy) / radius
    v = (-math.sin(angle) * dx + math.cos(angle) * dy) / radius
    inside = _soft(-_distance(shape, u, v) * radius * size_px)[..., None]  # [T, H, W, 1]
    half = _soft(u * radius * size_px)[..., None]
    frames = ground + inside * (half * left + (1 - half) * right - ground)
    return (frames * 255).round().astype(np.uint8)


AMPLITUDE = 0.1  # share of the frame
GROWTH = 1.1  # largest over middle size


def _draw_colours(rng: np.random.Generator) -> np.ndarray:
    while True:
        colours = rng.random((3, 3))
        apart = min(np.abs(colours[i] - colours[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2)))
        if apart > 0.9:
            return colours


def _distance(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance to the edge of a shape with a radius of about 1; negative inside."""
    if SHAPES[shape] == "disc":
        return np.sqrt(u * u + v * v) - 0.9
    if SHAPES[shape] == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.75
    return np.maximum(v, np.maximum(0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v)) - 0.5


def _soft(distance_px: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-2 * np.clip(distance_px, -20, 20)))


def name_of(number: int) -> str:
    """Return the file name of a video."""
    return f"{FOLDER}/{number}.{'webm' if number % 8 == 0 else 'mp4'}"


def write_clip(number: int, out: Path, seed: int, num_frames: int, size_px: int) -> int:
    """Write video `number`, and return its class. All random draws depend on (seed, number) only."""
    rng = np.random.default_rng([seed, number])
    label = int(rng.integers(len(TEMPLATES)))
    with replacing(out / name_of(number), tidy=False) as draft:
        write_video(draft, draw_clip(label, rng, num_frames, size_px), FPS, intra=True)
    return label


def prepare(out: Path, num_train: int, num_validation: int, seed: int, num_frames: int, size_px: int) -> None:
    """Write the set. The annotation files come last: if they exist, the set is complete. Raises UserError."""
    numbers = range(1, num_train + num_validation + 1)
    with own_folder(out, "datasets/synthetic/prepare.py", find_older_set) as own:
        own.reserve([*ANNOTATIONS, *map(name_of, numbers)])
        own.file(name_of(1))  # creates the folder
        remove_drafts(out / FOLDER)
        write_set(out, numbers, num_train, seed, num_frames, size_px)


def find_older_set(folder: Path) -> list[str] | None:
    """Return the files of an earlier version, which wrote no mark; None for any other folder."""
    return all_names(folder, *ANNOTATIONS, f"{FOLDER}/[0-9]*.mp4", f"{FOLDER}/[0-9]*.webm", f"{FOLDER}/.draft-*")


def write_set(out: Path, numbers: range, num_train: int, seed: int, num_frames: int, size_px: int) -> None:
    """Write the videos of these numbers, then the annotations."""
    with ProcessPoolExecutor(num_free_cores()) as pool:
        labels = list(pool.map(write_clip, numbers, *map(repeat, (out, seed, num_frames, size_px)), chunksize=16))
    rows = [
        {
            "id": str(n),
            "label": TEMPLATES[k].replace("[something]", "a shape"),
            "template": TEMPLATES[k],
            "placeholders": ["a shape"],
        }
        for n, k in zip(numbers, labels, strict=True)
    ]
    names = {template.replace("[", "").replace("]", ""): str(k) for k, template in enumerate(TEMPLATES)}
    for name, content in zip(ANNOTATIONS, (names, rows[num_train:], rows[:num_train]), strict=True):
        write_json(out / name, content)


def main() -> int:
    """Run the recipe; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1600, help="videos of the training split")
    parser.add_argument("--validation", type=int, default=600, help="videos of the validation split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--frame-size-px", type=int, default=32, help="side of the square frames, even")
    given = parser.parse_args()
    if given.frame_size_px % 2 or min(given.train, given.validation, given.num_frames) < 1:
        parser.error("--frame-size-px must be even; --train, --validation and --num-frames at least 1")

    def work() -> list[str]:
        prepare(given.out, given.train, given.validation, given.seed, given.num_frames, given.frame_size_px)
        return [f"{given.train} + {given.validation} videos, {len(TEMPLATES)} classes: {given.out}"]

    return print_lines(work)


if __name__ == "__main__":
    sys.exit(main())

"""Make the clips of the arena and the targets of the probes: games, moving items, ways to play real clips.

    python benchmarks/studies/arena_material.py --check [--clips FOLDER] [--count 600] [--sheet FILE.png] [--kinds pong,...]

`--check` makes small material of each kind. It prints the share of undefined targets, the share of the tubes that holds 80 %
of the motion, and how well raw pixels of one frame and of all frames predict each target. One frame should be near 0 for
velocities and for playback.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from arena_ale import GAMES, make_ale
from arena_clips import Material, find_shared, share_of_motion
from arena_items import make_items
from arena_motions import make_motions
from arena_playback import make_playback

from hpm_video.commands.output import say
from hpm_video.errors import UserError
from hpm_video.files import replacing

VERSION = 3  # of the material; raise it if clips or targets change
REAL_CLIPS = "surv_fight_vp9_240"


class Kind(NamedTuple):
    """Describe a kind of material. make(kind, split, seed, count, folder); needs: ale, items, textures, real clips.

    motion: the labels that need motion, so that one frame scores near 0 (`--check` prints it).
    """

    make: Callable[[str, str, int, int, Path | None], Material]
    needs: tuple[str, ...]
    motion: tuple[str, ...]


def _game(kind: str, split: str, seed: int, count: int, folder: Path | None) -> Material:
    return make_ale(kind, split, seed, count)


def _game_kind(name: str) -> Kind:
    """Return the row of a game. Half of its clips run backwards, so one frame does not reveal a velocity."""
    motion = (f"{item} {axis} velocity" for item, axes in GAMES[name].objects.items() for axis in axes)
    return Kind(_game, ("ale",), tuple(motion))


KINDS = {
    **{name: _game_kind(name) for name in GAMES},
    "motions": Kind(make_motions, (), ("motion",)),
    "items": Kind(make_items, ("items", "textures"), ("item x velocity", "item y velocity")),
    "playback": Kind(make_playback, ("real clips",), ("playback",)),
}


def make_material(kind: str, split: str, seed: int, count: int, folder: Path | None = None) -> Material:
    """Return `count` clips of a kind. Same arguments give the same clips; train and test share none.

    split: train or test. folder: real clips with labels.csv, for playback and for the textures under items (None: noise).
    Raises UserError for an unknown kind or split, and if a package or folder is missing.
    """
    if kind not in KINDS:
        raise UserError(f"kind: {kind}; expected one of {', '.join(KINDS)}")
    return KINDS[kind].make(kind, split, seed, count, folder)


def load_material(kind: str, split: str, seed: int, count: int, folder: Path | None, cache: Path) -> Material:
    """Return `make_material`'s clips from a file in `cache`, which is made if it does not exist."""
    file = cache / f"{kind}-{split}-{seed}-{count}{_mark(kind, folder)}-v{VERSION}.npz"
    if file.is_file():
        with np.load(file) as content:
            found = {name: content[name] for name in content.files}
        parts = [{name[2:]: found[name] for name in found if name.startswith(start)} for start in ("t ", "c ")]
        return Material(torch.from_numpy(found["clips"]), *parts)
    material = make_material(kind, split, seed, count, folder)
    cache.mkdir(parents=True, exist_ok=True)
    named = {f"t {name}": values for name, values in material.targets.items()}
    named |= {f"c {name}": values for name, values in material.classes.items()}
    with replacing(file) as draft, draft.open("wb") as stream:
        np.savez(stream, clips=material.clips.numpy(), **named)
    return material


def _mark(kind: str, folder: Path | None) -> str:
    """Return a part of the file name that identifies the table of real clips, for kinds that depend on it."""
    if not {"textures", "real clips"} & set(KINDS[kind].needs):
        return ""
    table = None if folder is None else folder / "labels.csv"
    content = table.read_bytes() if table is not None and table.is_file() else b""
    return "-" + (hashlib.blake2b(content, digest_size=4).hexdigest() if content else "none")


def check(kind: str, count: int, folder: Path | None) -> tuple[list[str], Material]:
    """Return lines on a kind of material, and its clips of the training part."""
    from arena_probes import pixels_of_all, pixels_of_one, probe

    started = time.perf_counter()
    train, test = (make_material(kind, split, 0, count, folder) for split in ("train", "test"))
    lines = [f"{kind}: {count} + {count} clips in {time.perf_counter() - started:.1f} s; "]
    lines[0] += f"80 % of the motion in {share_of_motion(train.clips):.1%} of the tubes"
    one, every = (
        probe(pixels(train.clips), pixels(test.clips), train, test) for pixels in (pixels_of_one, pixels_of_all)
    )
    lines.append(f"  {'target':27s} undefined  one frame  all frames  (R2; class: accuracy above chance)")
    for name in one.scores:
        undefined = np.isnan(train.targets[name]).mean() if name in train.targets else 0.0
        mark = "motion" if name in KINDS[kind].motion else ""
        lines.append(f"  {name:20s} {mark:6s} {undefined:9.1%} {one.scores[name]:10.3f} {every.scores[name]:11.3f}")
    return lines, train


def draw_sheet(materials: dict[str, Material], file: Path, num_clips: int = 3) -> None:
    """Write a picture of the first clips of each kind, one clip a row, twice as large."""
    from PIL import Image

    rows = [clip for material in materials.values() for clip in material.clips[:num_clips]]
    sheet = torch.stack(rows).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)  # [rows * 64, 8 * 64, 3]
    picture = Image.fromarray(sheet.numpy())
    with replacing(file) as draft:
        picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(draft)


def main() -> None:
    """Print the check of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", required=True, help="make small material and print figures on it"
    )
    parser.add_argument(
        "--clips", type=Path, default=find_shared(REAL_CLIPS), help="folder of real clips with labels.csv"
    )
    parser.add_argument("--count", type=int, default=600, help="clips of each part (default 600)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds, with commas between them (default: all)")
    parser.add_argument("--sheet", type=Path, help="write a picture of a few clips of each kind")
    given = parser.parse_args()
    torch.set_num_threads(1)
    materials = {}
    for kind in given.kinds.split(","):
        try:
            lines, materials[kind] = check(kind, given.count, given.clips)
        except UserError as error:
            lines = [f"{kind}: skipped: {error}"]
        say("\n".join(lines))
    if given.sheet and materials:
        draw_sheet(materials, given.sheet)


if __name__ == "__main__":
    main()

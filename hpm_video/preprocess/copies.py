"""The files of a training copy: what the copy of each video is called, and which files of an older copy are the program's own."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from hpm_video.catalog.layouts import annotation_names
from hpm_video.data.manifest import HEADER, read_header
from hpm_video.errors import UserError
from hpm_video.preprocess.jobs import read_records, read_settings

SETTINGS, RECORDS, BAD = "prepare.json", "results.jsonl", "bad.csv"


def target_of(name: str) -> str:
    """Return the usual name of the copy of a video."""
    return str(PurePosixPath(name).with_suffix(".mp4"))


def name_copies(names: Iterable[str], before: Mapping[str, str], preferred: str = "") -> dict[str, str]:
    """Return video -> name of its copy: of a.mov a.mp4, or if another video has that name, a.mov.mp4.

    before: names that copies have from earlier runs; they stay. preferred: the ending of the file that comes first, if
    several files have the same stem; "" for the first by name.
    """
    targets: dict[str, str] = {}
    taken: set[str] = set()

    def give(name: str, target: str) -> bool:
        if target in taken:
            return False
        targets[name] = target
        taken.add(target)
        return True

    ordered = sorted(names, key=lambda name: (not name.endswith(preferred), name))
    new = [name for name in ordered if not (name in before and give(name, before[name]))]
    for name in [name for name in new if not give(name, target_of(name))]:
        number = 1
        while not give(name, f"{name}.mp4" if number == 1 else f"{name}-{number}.mp4"):
            number += 1
    return targets


def names_before(folder: Path, renamed: Mapping[str, str]) -> dict[str, str]:
    """Return the names of the copies that earlier runs recorded in a folder, the latest record first; `renamed`: unusual ones."""
    records = reversed(read_records(folder / RECORDS))
    return {**renamed, **{r["path"]: renamed.get(r["path"], target_of(r["path"])) for r in records}}


def find_older_copy(folder: Path) -> list[str] | None:
    """Return the files of a copy of an earlier version, which left no mark; None if the folder is anything else."""
    settings = read_settings(folder / SETTINGS)
    if settings is None or set(settings) != {"root", "short_side_px", "gop", "max_fps"}:
        return None
    copied = {target_of(r["path"]) for r in read_records(folder / RECORDS) if "reason" not in r}
    for file in folder.rglob("*.mp4"):
        if not file.is_symlink() and (file.match(".*.half.mp4") or is_copy(file, settings["gop"])):
            copied.add(file.relative_to(folder).as_posix())  # a killed run has not recorded its last ones
    names = [SETTINGS, RECORDS, BAD, *copied]
    if (folder / BAD).is_file():  # written at the end, before the annotations
        names += _annotations_of(folder)
    return [name for name in names if (folder / name).is_file()]


def is_copy(file: Path, gop: int) -> bool:
    """Return whether a video was coded as copies are: x264 writes its settings into the file."""
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    return all(
        mark in head for mark in (b"x264", b" cabac=0 ", b" deblock=0:0:0 ", b" keyint=%d " % gop, b" scenecut=0 ")
    )


def _annotations_of(folder: Path) -> list[str]:
    names = annotation_names()
    try:
        names += [HEADER, *(entry["file"] for entry in read_header(folder)["splits"].values())]
    except (UserError, TypeError, KeyError, AttributeError):  # no manifest
        pass
    return names

"""Name the files of a training copy, and find which files of an older copy the program wrote itself."""

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
    """Return video -> name of its copy: a.mov becomes a.mp4, or a.mov.mp4 if another video has that name.

    before: names from earlier runs, which stay. preferred: if several files have the same stem, a file with this suffix
    gets the usual name; "": the first by name gets it.
    """
    targets: dict[str, str] = {}
    taken: set[str] = set()

    def assign(name: str, target: str) -> bool:
        if target in taken:
            return False
        targets[name] = target
        taken.add(target)
        return True

    ordered = sorted(names, key=lambda name: (not name.endswith(preferred), name))
    new = [name for name in ordered if not (name in before and assign(name, before[name]))]
    for name in [name for name in new if not assign(name, target_of(name))]:
        number = 1
        while not assign(name, f"{name}.mp4" if number == 1 else f"{name}-{number}.mp4"):
            number += 1
    return targets


def names_before(folder: Path, renamed: Mapping[str, str]) -> dict[str, str]:
    """Return video -> name of its copy from the records of earlier runs. renamed: copies with an unusual name."""
    records = reversed(read_records(folder / RECORDS))
    return {**renamed, **{r["path"]: renamed.get(r["path"], target_of(r["path"])) for r in records}}


def find_older_copy(folder: Path) -> list[str] | None:
    """Return the files of a copy by an earlier version, which wrote no mark; None for any other folder."""
    settings = read_settings(folder / SETTINGS)
    if settings is None or set(settings) != {"root", "short_side_px", "gop", "max_fps"}:
        return None
    copied = {target_of(r["path"]) for r in read_records(folder / RECORDS) if "reason" not in r}
    for file in folder.rglob("*.mp4"):
        if not file.is_symlink() and (file.match(".*.half.mp4") or is_copy(file, settings["gop"])):
            copied.add(file.relative_to(folder).as_posix())  # a killed run did not record its last copies
    names = [SETTINGS, RECORDS, BAD, *copied]
    if (folder / BAD).is_file():  # written at the end, before the annotations
        names += _annotations_of(folder)
    return [name for name in names if (folder / name).is_file()]


def is_copy(file: Path, gop: int) -> bool:
    """Return whether a video has the encoder settings of a copy: x264 writes them into the file."""
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

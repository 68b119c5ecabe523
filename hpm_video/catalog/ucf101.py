"""Read the three splits of UCF101."""

import re
from collections.abc import Iterator
from pathlib import Path

from hpm_video.catalog.listing import FileIndex
from hpm_video.catalog.rows import Entry, Found, collect_rows, find_folder
from hpm_video.catalog.texts import read_lines
from hpm_video.errors import UserError

UCF101_LISTS = {"train": "trainlist{:02d}.txt", "validation": "testlist{:02d}.txt"}


def read_ucf101(root: Path, annotations: Path | None, split: int) -> Found:
    """Read one of the three official splits. The test list is `validation`; a group is all clips of one film. Raises
    UserError."""
    folder = find_folder(root, annotations, ("ucfTrainTestlist", ".", "annotations"), "classInd.txt")
    classes: list[str] = []
    for number, line in read_lines(folder / "classInd.txt", "lines '1 ApplyEyeMakeup'"):
        cells = line.split()
        if len(cells) != 2 or cells[0] != str(len(classes) + 1):
            raise UserError(f"{folder / 'classInd.txt'}, line {number}: '{line}'; expected '{len(classes) + 1} NAME'")
        classes.append(cells[1])
    videos = FileIndex(root)
    lists = {name: folder / file.format(split) for name, file in UCF101_LISTS.items()}
    entries = {name: _read_ucf101_list(file, classes, videos) for name, file in lists.items()}
    return collect_rows(entries, classes, files=videos)


def _read_ucf101_list(file: Path, classes: list[str], videos: FileIndex) -> Iterator[Entry]:
    for number, line in read_lines(file, "lines 'Class/v_Class_g01_c01.avi'"):
        where, (path, *more) = f"{file}, line {number}", line.split()
        match = re.fullmatch(r"(\w+)/(v_\w+_(g\d+)_c\d+)\.\w+", path)
        if not match or len(more) > 1:
            raise UserError(f"{where}: '{line}'; expected 'Class/v_Class_g01_c01.avi', in training lists with a number")
        name, stem, group = match.groups()
        if name not in classes or (more and more[0] != str(classes.index(name) + 1)):
            raise UserError(f"{where}: '{line}'; expected a class of classInd.txt and its number")
        yield Entry(where, videos.find(f"{name}/{stem}", stem), path, name, f"{name}_{group}")

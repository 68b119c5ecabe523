"""Read the three splits of HMDB51."""

from pathlib import Path

from hpm_video.catalog.listing import FileIndex
from hpm_video.catalog.rows import Entry, Found, collect_rows, find_folder
from hpm_video.catalog.texts import read_lines
from hpm_video.errors import UserError

HMDB51_MARKS = {"0": None, "1": "train", "2": "validation"}


def read_hmdb51(root: Path, annotations: Path | None, split: int) -> Found:
    """Read one of the three official splits. Test videos (mark 2) are `validation`; videos with mark 0 are left out.
    Raises UserError."""
    names = ("testTrainMulti_7030_splits", ".", "annotations", "test_train_splits/testTrainMulti_7030_splits")
    ending = f"_test_split{split}.txt"
    folder = find_folder(root, annotations, names, "*" + ending)
    videos = FileIndex(root)
    entries: dict[str, list[Entry]] = {"train": [], "validation": []}
    for file in sorted(folder.glob("*" + ending)):
        label = file.name.removesuffix(ending)
        for number, line in read_lines(file, "lines 'NAME.avi 1'"):
            name, _, mark = line.strip().rpartition(" ")
            where, name = f"{file}, line {number}", name.strip()
            if mark not in HMDB51_MARKS or not name:
                raise UserError(f"{where}: '{line}'; expected 'NAME.avi' and 0 (unused), 1 (train) or 2 (test)")
            part, stem = HMDB51_MARKS[mark], name.rpartition(".")[0] or name
            if part:
                entries[part].append(Entry(where, videos.find(f"{label}/{stem}", stem), f"{label}/{name}", label))
    return collect_rows(entries, None, files=videos)

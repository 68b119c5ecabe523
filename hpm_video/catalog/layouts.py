"""Folders in the own layout of a known data set: read as they are, without a recipe."""

from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.catalog.rows import Found
from hpm_video.config.data_sets import DataSet, describe_layouts, list_layouts
from hpm_video.errors import UserError


class Layout(NamedTuple):
    """A folder that was recognised as a set. The module of the set has

    - ANNOTATIONS: names of its annotation files, relative to the root
    - PREFERRED_SUFFIX: of several files with the stem of a row, the one that is read; "" for the first
    - find_annotations(root, given): the folder of its annotation files, or None
    - read_split(root, annotations, split): `Found` of one split, which is absent if the set has none
    """

    name: str
    data_set: DataSet
    module: Any
    annotations: Path

    def read_split(self, root: Path, split: str) -> Found:
        """Read the rows of a split. Raises UserError."""
        return self.module.read_split(root, self.annotations, split)


def find_layout(root: Path, given: Path | None = None, name: str = "auto") -> Layout | None:
    """Return the layout of a folder, None if it has none. `name`: of a set, or auto for any.

    Raises UserError if `given`, the folder of the annotations, holds none, or if the folder is not of the named set.
    """
    wanted = {known: row for known, row in list_layouts().items() if name in ("auto", known)}
    for known, row in wanted.items():
        module = row.load()
        if annotations := module.find_annotations(root, given):
            return Layout(known, row, module, annotations)
    expected = describe_layouts(wanted.values(), " or ")
    if given:
        raise UserError(f"data.annotations: {given} does not hold {expected}")
    if name != "auto":
        raise UserError(f"data.format: {name}, but {root} does not hold {expected}")
    return None


def annotation_names() -> list[str]:
    """Return the names that annotation files of any layout may have, relative to the root."""
    return [name for row in list_layouts().values() for name in row.load().ANNOTATIONS]

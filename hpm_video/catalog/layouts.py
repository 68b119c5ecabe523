"""Recognise folders in the layout of a known data set, which are read without a recipe."""

from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.catalog.rows import Found
from hpm_video.config.data_sets import DataSet, describe_layouts, list_layouts
from hpm_video.errors import UserError


class Layout(NamedTuple):
    """The layout of a folder that was recognised. The module of its data set has

    - ANNOTATIONS: names of the annotation files, relative to the root
    - PREFERRED_SUFFIX: the suffix that wins if several files have the same stem; "": the first file by name wins
    - find_annotations(root, given): returns the folder of the annotation files, or None
    - read_split(root, annotations, split): returns the `Found` of one split; the split is absent if the set lacks it
    """

    name: str
    data_set: DataSet
    module: Any
    annotations: Path

    def read_split(self, root: Path, split: str) -> Found:
        """Read the rows of a split. Raises UserError."""
        return self.module.read_split(root, self.annotations, split)


def find_layout(root: Path, given: Path | None = None, name: str = "auto") -> Layout | None:
    """Return the layout of a folder, or None if it is not recognised. name: a data set, or auto for any.

    Raises UserError if `given`, the annotation folder, holds no annotations, or if `root` is not in the named layout.
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
    """Return the names of the annotation files of all layouts, relative to the root."""
    return [name for row in list_layouts().values() for name in row.load().ANNOTATIONS]

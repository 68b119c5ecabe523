"""Sources of samples: a manifest, tar shards, webdataset tars, a known set's own layout, or any folder of videos."""

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from hpm_video.catalog.layouts import Layout, find_layout
from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.catalog.roots import check_annotations, check_root, find_splits, tell_use
from hpm_video.catalog.tar_files import find_tars
from hpm_video.config import DataConfig
from hpm_video.config.clip_rules import ClipRule, read_clip_rule
from hpm_video.config.data_sets import SamplingProtocol
from hpm_video.data.folder_table import read_folder
from hpm_video.data.manifest import HEADER, Manifest, read_manifest
from hpm_video.data.orders import Order
from hpm_video.data.readers.limits import Limits
from hpm_video.errors import UserError
from hpm_video.item import Item

log = logging.getLogger("hpm_video")


@runtime_checkable
class Source(Protocol):
    """The samples of a split, numbered by rows 0 to len - 1. It can be pickled and forked."""

    @property
    def classes(self) -> list[str]:
        """Return the class names by label; empty without labels."""

    @property
    def source(self) -> str:
        """Its name in messages: the set and the file."""

    @property
    def set_name(self) -> str:
        """The name of the set: ssv2, kinetics400, ...; "" for a plain folder."""

    @property
    def left_right(self) -> bool:
        """True if the labels distinguish left from right: a flip would change the class."""

    @property
    def protocol(self) -> SamplingProtocol | None:
        """Return the sampling and test protocol of the set; None if neither its header nor its name gives it."""

    @property
    def kind(self) -> str:
        """videos, images, or samples if they are mixed, folders of frames or in shards."""

    @property
    def labels(self) -> Sequence[int] | None:
        """The label of each row, -1 for none; None if it takes reading every tar."""

    @property
    def order(self) -> Order:
        """A new order at each call. Keep it: it remembers its draws."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Return the path of a sample in its set, as messages show it."""

    def item(self, row: int) -> Item:
        """Return a sample, ready to be decoded. Raises UnreadableVideo."""

    def groups(self, rows: Sequence[int]) -> list[str]:
        """Return the group of each row (a camera, a person); "" if unknown."""

    def fingerprint(self) -> str | None:
        """Return a digest of paths, labels, first frames and pieces, the same on every machine; None for shards."""

    def version(self) -> str:
        """Return a digest that changes when a row or a file changes."""

    def facts(self) -> dict[str, list]:
        """Return label, first_frame, frames (and start_s, stop_s of pieces) of all rows by name; {} for shards."""

    def describe(self, row: int) -> tuple | None:
        """Return some facts of the content of a sample, without decoding it; None if it cannot be read."""

    def cut(self, rule: ClipRule, limits: Limits) -> "Any":
        """Return a source with a row for each piece of each film. Raises UserError for shards."""

    def hold_out(self, num: int, seed: int) -> "tuple[Any, Any]":
        """Return two sources: the rest, and `num` samples that represent the set."""


def open_source(config: DataConfig, split: str, suffixes: Sequence[str] = ()) -> Source | None:
    """Open the train, validation or test split at `data.root` in `data.format`; None if it does not exist. Raises UserError.

    suffixes: those of the files to take from a plain folder; by default videos, and images too if clips have one frame. A
    plain folder without train/ and val/ or test/ has only training samples. With data.clips films are cut into pieces.
    """
    source, rule = _open(config, split, suffixes), read_clip_rule(config.clips)
    return source if source is None or rule is None else source.cut(rule, Limits.of(config))


def _open(config: DataConfig, split: str, suffixes: Sequence[str] = ()) -> Source | None:
    """Open a split with uncut files; see `open_source`."""
    if "://" in config.root or config.format == "shards" or (Path(config.root) / "shards.json").is_file():
        from hpm_video.data.shards import open_shards

        return open_shards(config.root, split, config.store_timeout_s)
    wanted = tuple(suffixes) or (SUFFIXES + IMAGE_SUFFIXES if config.num_frames == 1 else SUFFIXES)
    root = Path(config.root)
    tars = find_tars(config.root, wanted) if config.format == "auto" else []
    if tars and not root.is_dir():
        return _open_tars(tars, wanted, split, config)
    check_root(root)
    if (root / "pack.json").is_file():
        raise UserError(f"data.root: {root} is not packed completely. Run the same hpm-video pack again")
    given = Path(config.annotations) if config.annotations else None
    if given:
        check_annotations(given, root)
    if config.format == "manifest" or (config.format == "auto" and ((given or root) / HEADER).is_file()):
        return read_manifest(given or root, split, root if given else None)
    if config.format != "folder" and (layout := find_layout(root, given, config.format)):
        return _open_layout(layout, root, split, config.max_bad_share)
    if tars:
        return _open_tars(tars, wanted, split, config)
    folders = find_splits(root, wanted) if config.format == "auto" else {}
    if split != "train" and split not in folders:
        return None
    table = read_folder(root, folders.get(split, "."), wanted)
    if split == "train":
        tell_use(root, folders, config.format == "folder")
    return Manifest(root=root, table=table, classes=[], source=f"folder {root}")


def _open_layout(layout: Layout, root: Path, split: str, most: float) -> Manifest | None:
    found = layout.read_split(root, split)
    if split not in found.splits:
        return None
    rows, missing, data_set = found.splits[split], found.missing.get(split, []), layout.data_set
    where = f"{layout.annotations} ({split})"
    check_missing(missing, len(rows) + len(missing), most, f"{where}, {root}")
    facts: dict[str, Any] = {"left_right": data_set.left_right, "protocol": data_set.protocol}
    return Manifest.of(root, rows, found.classes, f"{data_set.help} {where}", set_name=layout.name, **facts)


def _open_tars(tars: list[Path], suffixes: Sequence[str], split: str, config: DataConfig) -> Source | None:
    from hpm_video.data.shards import open_shards
    from hpm_video.data.tars import index_in_cache

    return open_shards(index_in_cache(tars, suffixes), split, config.store_timeout_s)


def check_missing(missing: Sequence[str], num_rows: int, most: float, where: str) -> None:
    """Log the rows without a file. Raises UserError if they are more than the share `most` of all rows."""
    if not missing:
        return
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    text = f"{where}: {len(missing)} of {num_rows} rows have no file: {shown}"
    if len(missing) > most * num_rows:
        raise UserError(f"{text}; expected at most the share {most} (data.max_bad_share)")
    log.warning("%s; left out", text)


def check_paths(source: Source) -> None:
    """Raise UserError if a path leads out of the root: the author of a list must not choose which files are copied."""
    for row in range(len(source)):
        path = source.name(row)
        if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
            raise UserError(
                f"{source.source}, row {row + 1}: {path} lies outside the set's root; expected a path below it, without .."
            )

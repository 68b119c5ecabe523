"""Pack a data set of files into tar shards, which `hpm_video/data/shards.py` reads. Each shard is written atomically, and
`shards.json` last."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from hpm_video.catalog.layouts import find_layout
from hpm_video.catalog.listing import list_folder
from hpm_video.catalog.texts import is_utf8
from hpm_video.config import DataConfig
from hpm_video.config.data_sets import protocol_entry
from hpm_video.data.manifest import HEADER as MANIFEST
from hpm_video.data.shards import FORMAT, HEADER, Member, index_of
from hpm_video.data.source import Source, check_missing, check_paths, open_source
from hpm_video.data.splits import SPLITS
from hpm_video.errors import UserError
from hpm_video.item import Item
from hpm_video.preprocess.jobs import SPECIAL, is_special
from hpm_video.preprocess.shard_target import BAD, SETTINGS, Target, open_target
from hpm_video.progress import Progress
from hpm_video.reading import parse_json
from hpm_video.streams import PACKING

COLUMNS = Member._fields[:-1]  # of an index, which lies beside its tar


@dataclass(frozen=True)
class Plan:
    """A split, and its rows in packing order."""

    split: str
    source: Source
    rows: np.ndarray  # int [num_samples]
    digest: str  # of names and labels in packing order

    @property
    def pattern(self) -> str:
        """The format of the tar names; its field is the number."""
        return self.split + "-{:06d}.tar"

    def tars(self, samples_per_shard: int) -> Iterator[tuple[str, range]]:
        """Yield the name of each tar, and the range of `rows` that it holds."""
        for number, start in enumerate(range(0, len(self.rows), samples_per_shard)):
            yield self.pattern.format(number), range(start, min(start + samples_per_shard, len(self.rows)))


class BadFile(NamedTuple):
    """A file that is not packed."""

    split: str
    path: str
    reason: str


def pack(config: DataConfig, out: str, samples_per_shard: int = 1000, seed: int = 0, num_workers: int = 4) -> None:
    """Write all splits of the data set to `out`, a folder or URL. Repeating the call writes only what is missing.

    Missing and empty files are listed in `bad.csv` and left out. Raises UserError, also if their share is above
    data.max_bad_share, or if `out` holds other samples or was packed with other settings.
    """
    if samples_per_shard < 1 or num_workers < 1:
        raise UserError(f"samples per shard {samples_per_shard}, workers {num_workers}; expected at least 1 of each")
    plans, bad = make_plans(config, seed, num_workers)
    samples = {plan.split: f"{len(plan.rows)} samples, {plan.digest}" for plan in plans}
    settings = {"samples_per_shard": samples_per_shard, "seed": seed, "samples": samples}
    with open_target(out) as target:
        target.reserve(names_of(plans, samples_per_shard))
        _check_settings(target, settings)
        target.write(BAD, lambda file: file.write(_to_csv(bad)))
        for plan in plans:
            named = [f"{file.path} ({file.reason})" for file in bad if file.split == plan.split]
            where = f"{plan.source.source}, {out}/{BAD}"
            check_missing(named, len(plan.rows) + len(named), config.max_bad_share, where)
        target.write_json(SETTINGS, settings)
        _write_shards(target, plans, samples_per_shard, num_workers)
        source = plans[0].source
        header = {
            "format": FORMAT,
            "name": source.set_name or Path(config.root).resolve().name,
            "left_right": source.left_right,
            **protocol_entry(source.protocol),
            "splits": {
                p.split: {"pattern": p.pattern, "num_samples": len(p.rows), "samples_per_shard": samples_per_shard}
                for p in plans
            },
            "classes": source.classes,
        }
        target.write_json(HEADER, header)


def names_of(plans: Sequence[Plan], samples_per_shard: int) -> list[str]:
    """Return the names of all files of a set of shards."""
    tars = [tar for plan in plans for tar, _ in plan.tars(samples_per_shard)]
    return [SETTINGS, BAD, HEADER, *tars, *map(index_of, tars)]


def _to_csv(bad: list[BadFile]) -> bytes:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([BadFile._fields, *bad])
    return table.getvalue().encode(errors="backslashreplace")


def make_plans(config: DataConfig, seed: int, num_workers: int) -> tuple[list[Plan], list[BadFile]]:
    """Return a plan for each split, and the files that are not packed. Training samples are shuffled with the seed. Raises
    UserError."""
    plans, bad = [], []
    for split in SPLITS:
        source = open_source(config, split)
        if source is None or not len(source):
            continue
        labels = source.labels
        if labels is None:
            raise UserError(f"{config.root}: holds shards already; expected a folder, SSv2's layout or a manifest")
        check_paths(source)
        rows = np.arange(len(source))
        if split == "train":
            rows = PACKING.numpy(seed).permutation(rows)
        with ThreadPoolExecutor(num_workers) as pool:
            blocks = np.array_split(rows, -(-len(rows) // 1000))
            faults = [fault for block in pool.map(partial(_find_faults, source), blocks) for fault in block]
        bad += [BadFile(split, name, "its name is not UTF-8") for name in _odd_names(config, split)]
        bad += [BadFile(split, source.name(int(r)), fault) for r, fault in zip(rows, faults, strict=True) if fault]
        rows = rows[[fault is None for fault in faults]]
        digest = hashlib.sha256()
        for row in rows.tolist():
            digest.update(f"{source.name(row)}\0{labels[row]}\n".encode())
        plans.append(Plan(split, source, rows, digest.hexdigest()[:16]))
    if not plans:
        raise UserError(f"{config.root}: no samples; expected some in one of {', '.join(SPLITS)}")
    return plans, bad


def _odd_names(config: DataConfig, split: str) -> list[str]:
    """Return the files of a plain folder that `open_source` leaves out, as their names are not UTF-8."""
    root = Path(config.root)
    if split != "train" or (root / MANIFEST).is_file() or find_layout(root) is not None:
        return []
    return [name for name in list_folder(root) if not is_utf8(name)]


def _find_faults(source: Source, rows: np.ndarray) -> list[str | None]:
    return [_find_fault(source, row) for row in rows.tolist()]


def _find_fault(source: Source, row: int) -> str | None:
    """Return why a row cannot be packed, or None. Raises UserError for pieces and folders of frames: no row of such a set can."""
    item = source.item(row)
    media = item.media
    assert isinstance(media, Path)
    if item.span is not None:
        raise UserError(
            f"{item.name}: is a piece of a film, which shards do not hold yet; expected whole files. Cut the films first, or "
            "train on the manifest (no data.clips)"
        )
    try:
        size = media.stat().st_size
    except OSError as error:
        return error.strerror or type(error).__name__
    if is_special(media):
        return SPECIAL
    if media.is_dir():
        raise UserError(
            f"{media}: is a folder of frames, which shards do not hold yet; expected a file for each sample"
        )
    return None if size else "file is empty (0 bytes)"


def _check_settings(target: Target, settings: dict[str, Any]) -> None:
    """Raise UserError if the target holds shards with other settings."""
    content = target.read(SETTINGS)
    if content is None:
        return
    path = f"{target.name}/{SETTINGS}"
    try:
        before = parse_json(content)
        other = [f"{name} was {before[name]}, is {value}" for name, value in settings.items() if before[name] != value]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error!r}; expected what hpm-video pack wrote there; use an empty folder") from error
    if other:
        raise UserError(f"{path}: {'; '.join(other)}; expected the same to continue this set; use an empty folder")


def _write_shards(target: Target, plans: Sequence[Plan], samples_per_shard: int, num_workers: int) -> None:
    """Write the tars whose index is missing, in threads, as the work waits for disks and networks."""
    existing = target.list()
    jobs = [(plan, tar, part) for plan in plans for tar, part in plan.tars(samples_per_shard)]
    missing = [job for job in jobs if index_of(job[1]) not in existing]
    num_all, num_done = sum(len(part) for _, _, part in missing), 0
    with (
        Progress(f"pack {target.name}", "samples", num_all) as progress,
        ThreadPoolExecutor(num_workers) as pool,
    ):
        written = {pool.submit(_write_shard, target, *job): len(job[2]) for job in missing}
        try:
            for done in as_completed(written):
                done.result()
                num_done += written[done]
                progress.show(num_done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_shard(target: Target, plan: Plan, tar: str, part: range) -> None:
    members = target.write(tar, partial(_fill_tar, plan=plan, part=part))
    target.write_json(index_of(tar), {"columns": COLUMNS, "samples": members}, indent=None)


def _fill_tar(file: BinaryIO, plan: Plan, part: range) -> list[tuple]:
    """Write two files for each sample, in webdataset's convention. The bytes are reproducible: no owner and no time."""
    members = []
    with tarfile.open(fileobj=file, mode="w") as tar:
        for place in part:
            item = plan.source.item(int(plan.rows[place]))
            content, key = _read_file(item), f"{place:09d}"
            note: dict[str, Any] = {"path": item.name, "label": item.label}
            if item.label >= 0 and plan.source.classes:
                note["class"] = plan.source.classes[item.label]
            ending = Path(item.name).suffix[1:].lower()
            _add(tar, f"{key}.{ending if ending.isalnum() else 'bin'}", content)
            blocks = -(-len(content) // tarfile.BLOCKSIZE)
            offset = tar.offset - blocks * tarfile.BLOCKSIZE
            members.append((key, item.name, offset, len(content), item.label, item.first_frame, item.num_frames))
            _add(tar, f"{key}.json", json.dumps(note, ensure_ascii=False).encode())
    return members


def _read_file(item: Item) -> bytes:
    assert isinstance(item.media, Path)
    try:
        content = item.media.read_bytes()
    except OSError as error:
        raise UserError(f"{item.media}: {error.strerror}; expected a file that can be read") from error
    if not content:
        raise UserError(f"{item.media}: is empty now; expected a file that stays as it is while it is packed")
    return content


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))

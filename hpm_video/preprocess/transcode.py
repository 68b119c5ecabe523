"""Make a training copy of a set of videos: small H.264 files that are fast to read at any frame. `hpm-video prepare`."""

import logging
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

import numpy as np

from hpm_video.catalog.layouts import find_layout
from hpm_video.catalog.listing import list_folder
from hpm_video.catalog.rows import Row
from hpm_video.catalog.texts import is_utf8
from hpm_video.data.manifest import (
    HEADER,
    Manifest,
    manifest_names,
    read_header,
    read_manifest,
    write_manifest,
)
from hpm_video.data.readers.pixels import changes_size
from hpm_video.data.readers.probe import count_decoded, probe
from hpm_video.data.readers.read import read_frames
from hpm_video.data.sampling import sample_dense
from hpm_video.data.source import check_paths
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.files import disk_faults, remove_drafts, replacing
from hpm_video.own_folder import OwnFolder, own_folder, read_mark
from hpm_video.preprocess.copies import BAD, RECORDS, SETTINGS, find_older_copy, name_copies, names_before, target_of
from hpm_video.preprocess.encode import transcode
from hpm_video.preprocess.jobs import Record, count_reasons, keep_settings, run_jobs, write_bad, write_records
from hpm_video.preprocess.scan import check_folders, look_at
from hpm_video.progress import tell_size, tell_time

log = logging.getLogger("hpm_video")
NUM_SAMPLED = 8  # files to copy first, to estimate the whole set
SPARE = 1.1  # the disk must have this many times the expected room


@dataclass(frozen=True, kw_only=True)
class Copying:
    """Source, target and settings, for the workers."""

    source: Path  # the folder that names are relative to
    out: Path
    short_side_px: int
    gop: int  # frames from one key frame to the next
    max_fps: float | None  # None: keep all frames

    @property
    def settings(self) -> Record:
        """The settings on which the content of a copy depends."""
        return {"short_side_px": self.short_side_px, "gop": self.gop, "max_fps": self.max_fps}


def prepare(root: Path, out: Path, short_side_px: int, gop: int, max_fps: float | None, **how: Any) -> str:
    """Write the copies, their annotations, results.jsonl and bad.csv into `out`; return a summary.

    how: num_workers, time_limit_s, sample_only. Raises UserError, also if `out` holds files of others.
    """
    check_folders(root, out)
    manifests, source, names = find_sources(root)
    check_folders(source, out)
    copying = Copying(source=source.resolve(), out=out.resolve(), short_side_px=short_side_px, gop=gop, max_fps=max_fps)
    with own_folder(out, "hpm-video prepare", find_older_copy) as own:
        targets = reserve_copies(own, root, manifests, names)
        keep_settings(own.file(SETTINGS), {"root": str(root.resolve()), **copying.settings})
        sizes = {name: file_size(source / name) for name in names}
        sample = spread_sample(sizes)
        done = _copy(copying, sample, "sample", how, targets)
        ratio, estimate = estimate_set(done, list(sizes.values()), how["num_workers"])
        for line in estimate.splitlines():
            log.info("%s", line)
        if how["sample_only"]:
            return f"Sample only: {len(sample)} files are in {out}; the same command without --sample-only copies the others.\n"
        left = [name for name in names if name not in sample and not (out / targets[name]).exists()]
        check_room(out, ratio * sum(sizes[name] for name in left))
        records = _copy(copying, names, f"prepare {root}", how, targets)
        write_records(out / RECORDS, records)
        write_bad(out, records)
        for record in records:
            if "reason" in record:
                own.remove(targets[record["path"]])  # made from an earlier version of the source
        copy_annotations(root, own, manifests, records, targets)
        return _summarise(out, records)


def reserve_copies(own: OwnFolder, root: Path, manifests: dict[str, Manifest], names: list[str]) -> dict[str, str]:
    """Reserve all files that will be written, and return video -> name of its copy. Raises UserError if a file is not ours."""
    known = own.more.get("renamed", {})
    layout = None if manifests else find_layout(root)
    targets = name_copies(names, names_before(own.path, known), layout.module.PREFERRED_SUFFIX if layout else "")
    renamed = {name: target for name, target in targets.items() if target != target_of(name)}
    for name in sorted(renamed.keys() - known.keys()):
        log.info("%s: its copy is %s, as another video has the usual name", name, renamed[name])
    written = {SETTINGS, RECORDS, BAD, *(targets[name] for name in names if is_utf8(name))}
    written |= set(manifest_names(manifests)) if manifests else set(_annotation_files(root))
    own.more["renamed"] = renamed
    own.reserve(written)
    own.save()
    for name in [name for name in own.names if PurePosixPath(name).match(".*.half.mp4")]:
        own.remove(name)  # from a killed run of an earlier version
    for folder in {(own.path / target).parent for target in targets.values()}:
        remove_drafts(folder)
    return targets


def _copy(copying: Copying, names: list[str], title: str, how: dict[str, Any], targets: dict[str, str]) -> list[Record]:
    def still_good(record: Record) -> bool:
        return "reason" in record or file_size(copying.out / targets[record["path"]]) == record["bytes_after"]

    return run_jobs(
        {name: copying.source / name for name in names},
        partial(copy_file, copying=copying, timed=title == "sample"),
        copying.out / RECORDS,
        title,
        copying.settings,
        how["num_workers"],
        how["time_limit_s"],
        still_good,
    )


def find_sources(root: Path) -> tuple[dict[str, Manifest], Path, list[str]]:
    """Return (manifests by split, {} if there are none; the folder of the videos; their names in it, sorted).
    Raises UserError."""
    if (root / "shards.json").is_file():
        raise UserError(f"{root} holds shards; expected a folder of videos, of a manifest or of SSv2's layout")
    if not (root / HEADER).is_file():
        return {}, root, list_folder(root)
    found = {split: read_manifest(root, split) for split in read_header(root)["splits"]}
    manifests = {split: manifest for split, manifest in found.items() if manifest}
    for manifest in manifests.values():
        check_paths(manifest)
    names = sorted({path for manifest in manifests.values() for path in manifest.paths})
    if not names:
        raise UserError(f"{root / HEADER}: its splits have no rows; expected at least one video")
    return manifests, next(iter(manifests.values())).root, names


def file_size(file: Path) -> int:
    """Return the bytes of a file; 0 if there is none."""
    return file.stat().st_size if file.is_file() else 0


def spread_sample(sizes: dict[str, int]) -> list[str]:
    """Return NUM_SAMPLED names, evenly spread in the order of file size."""
    ordered = sorted(sizes, key=lambda name: (sizes[name], name))
    places = (np.arange(NUM_SAMPLED) + 0.5) * len(ordered) / NUM_SAMPLED
    return [ordered[k] for k in sorted(set(places.astype(int).tolist()))]


@lru_cache(maxsize=1)
def _renamed(out: Path) -> dict[str, str]:
    """Return video -> unusual name of its copy, from the mark of the copy; each worker reads it once."""
    return (read_mark(out) or {}).get("renamed", {})


def copy_file(name: str, copying: Copying, timed: bool) -> Record:
    """Copy one file, check the copy, and then give it its name. Raises UnreadableVideo if source or copy is bad."""
    source, target = copying.source / name, copying.out / _renamed(copying.out).get(name, target_of(name))
    begin = time.perf_counter()
    count, height, width = look_at(source)
    with disk_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, tidy=False) as draft:
        transcode(source, draft, copying.short_side_px, copying.gop, copying.max_fps)
        facts = check_copy(draft, source, (count, height, width), copying)
        spent_s = time.perf_counter() - begin
    facts |= {"bytes_after": file_size(target), "spent_s": round(spent_s, 3)}
    if changes_size(str(source)):
        facts["changes_size"] = True
    if timed:
        facts["decode_ms"] = [round(_time_decoding(file), 2) for file in (source, target)]
    return facts


def check_copy(copy: Path, source: Path, expected: tuple[int, int, int], copying: Copying) -> Record:
    """Decode all frames of a copy and return the facts for its row. expected: frames, height, width of the source. Raises
    UnreadableVideo."""
    info = probe(copy)
    decoded = count_decoded(copy)
    most = expected[0]
    if copying.max_fps:
        most = min(most, int(probe(source).seconds * copying.max_fps) + 2)
    if decoded > most or decoded < info.num_frames or (not copying.max_fps and decoded != most):
        raise UnreadableVideo(str(copy), f"the copy has {decoded} frames that can be decoded; expected {most}")
    _, height, width = look_at(copy)
    share = min(1.0, copying.short_side_px / min(expected[1:]))
    if max(abs(height - share * expected[1]), abs(width - share * expected[2])) > 2:  # rounded to even numbers
        raise UnreadableVideo(str(copy), f"the copy has {width} x {height} px, made of {expected[2]} x {expected[1]}")
    return {"frames": decoded, "fps": info.fps, "width": width, "height": height}


def _time_decoding(file: Path) -> float:
    """Return the milliseconds for 16 frames at stride 4 around the middle, best of three."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        read_frames(file, lambda count: sample_dense(count, 16, 4, None))
        times.append(1000 * (time.perf_counter() - begin))
    return min(times)


def estimate_set(sample: list[Record], sizes: list[int], num_workers: int) -> tuple[float, str]:
    """Estimate the whole set from the sample: (size of the copies / size of the sources, text to print)."""
    good = [record for record in sample if "reason" not in record]
    if not good:
        reasons = "; ".join(f"{record['path']}: {record['reason']}" for record in sample[:3])
        raise UserError(f"none of {len(sample)} sampled files could be copied ({reasons}); expected videos")
    before, after = (sum(record[key] for record in good) for key in ("size", "bytes_after"))
    seconds = sum(record["spent_s"] for record in good) / before * sum(sizes) / num_workers
    timed = [record["decode_ms"] for record in good if "decode_ms" in record]
    speed = " -> ".join(f"{median(pair[k] for pair in timed):.1f} ms" for k in (0, 1)) if timed else "not timed"
    text = (
        f"sample of {len(good)} files: {tell_size(before)} -> {tell_size(after)}; "
        f"to decode 16 frames at stride 4 (median): {speed}\n"
        f"expected for all {len(sizes):,}: {tell_size(sum(sizes))} -> {tell_size(after / before * sum(sizes))} "
        f"in about {tell_time(seconds)} with {num_workers} workers"
    )
    return after / before, text


def check_room(out: Path, num_bytes: float) -> None:
    """Raise UserError if the disk has not enough room for `num_bytes` and some spare."""
    free = shutil.disk_usage(out).free
    if free < SPARE * num_bytes:
        raise UserError(
            f"{out}: {tell_size(free)} free; expected {tell_size(SPARE * num_bytes)} for the remaining copies "
            "(a smaller --short-side or --fps, or a larger --gop, in another folder needs less)"
        )


def copy_annotations(
    root: Path, own: OwnFolder, manifests: dict[str, Manifest], records: list[Record], targets: dict[str, str]
) -> None:
    """Make `out` a data.root like `root`: write a new manifest without the files that could not be copied, or copy the
    annotations of the layout."""
    out, made = own.path, {record["path"]: record for record in records if "reason" not in record}
    if manifests:
        splits: dict[str, Sequence[Row]] = {s: _new_rows(manifest, made, targets) for s, manifest in manifests.items()}
        first = next(iter(manifests.values()))
        write_manifest(out, first.set_name, out, splits, first.classes, first.left_right, first.protocol)
    for name, source in _annotation_files(root).items() if not manifests else ():
        with replacing(own.file(name)) as draft:
            shutil.copyfile(source, draft)


def _annotation_files(root: Path) -> dict[str, Path]:
    """Return name relative to root -> annotation file, for a data set in a known layout."""
    layout = find_layout(root)
    names = [name for name in layout.module.ANNOTATIONS if (root / name).is_file()] if layout else []
    return {name: root / name for name in names if layout and (root / name).parent == layout.annotations}


def _new_rows(manifest: Manifest, made: dict[str, Record], targets: dict[str, str]) -> list[Row]:
    """Return the rows whose file was copied, with path, frames, fps and size of the copy."""
    kept = [Row(**row) for row in manifest.table.to_pylist() if row["path"] in made]
    facts = [{key: made[row.path][key] for key in ("frames", "fps", "width", "height")} for row in kept]
    return [row._replace(path=targets[row.path], **fact) for row, fact in zip(kept, facts, strict=True)]


def _summarise(out: Path, records: list[Record]) -> str:
    good = [record for record in records if "reason" not in record]
    before, after = (sum(record[key] for record in good) for key in ("size", "bytes_after"))
    lines = [f"{len(good):,} of {len(records):,} files copied, {tell_size(before)} -> {tell_size(after)}"]
    changing = [record["path"] for record in good if record.get("changes_size")]
    if changing:
        lines.append(
            f"  change their size midway; copied at the size of their first frame: {len(changing):,} ({changing[0]})"
        )
    lines += [f"  left out: {number:,}: {reason}" for reason, number in count_reasons(records)]
    if len(good) < len(records):
        lines.append(f"  each with its reason: {out / 'bad.csv'}")
    lines.append(f"Train on the copy: hpm-video pretrain data.root={shlex.quote(str(out))}")
    return "\n".join(lines) + "\n"

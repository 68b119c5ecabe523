"""Read existing tars in webdataset's convention as shards: an index lists where each sample lies.

A sample is the files of one key: `KEY.mp4`, with its label in `KEY.cls` or in a field of `KEY.json`. The tars are not changed.
The index (`shards.json`, and a file per 1000 samples) is kept in the user's cache, or written by a recipe.
"""

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hpm_video.catalog.classes import Labels
from hpm_video.catalog.columns import meaning_of, split_of_path
from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES
from hpm_video.catalog.texts import is_utf8, parse_json
from hpm_video.data.shards import FORMAT, Member
from hpm_video.data.store import HEADER
from hpm_video.errors import UserError
from hpm_video.files import cache_folder, disk_faults, write_text
from hpm_video.progress import track
from hpm_video.streams import TAR_ORDER

log = logging.getLogger("hpm_video")
SAMPLES = 1000  # per file of the index
MOST_LABEL_BYTES = 16 << 20
LABEL_SUFFIXES = (".json", ".cls", ".txt")  # files that may hold the label of a sample


class Found(NamedTuple):
    """A sample of a tar."""

    where: str  # tar and key
    member: Member  # without its label
    labels: dict[str, str]  # candidates for its label, by "cls", "txt" or a field of its JSON


def index_in_cache(tars: Sequence[Path], suffixes: Sequence[str]) -> str:
    """Return the cache folder of the index of these tars. Write the index if it does not exist. Raises UserError."""
    stamps = [(str(tar.resolve()), (found := tar.stat()).st_size, found.st_mtime_ns) for tar in tars]
    digest = hashlib.sha256(json.dumps([1, stamps, list(suffixes)]).encode()).hexdigest()[:40]
    cache = cache_folder("tars")
    if cache is None:
        raise UserError(
            "data.root: tars need an index, but HPM_VIDEO_CACHE is empty: there is no cache for it; expected a folder. Or try "
            f"python datasets/webdataset/prepare.py {tars[0].parent} --out OUT, then data.root=OUT"
        )
    folder = cache / digest
    if not (folder / HEADER).is_file():
        log.info("data.root: the index of %d tars is written to %s", len(tars), folder)
        with disk_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in index_tars(tars, suffixes).items():
            write_text(folder / name, content)
    return str(folder)


def index_tars(
    tars: Sequence[Path], suffixes: Sequence[str] = SUFFIXES, label: str = "auto", out: Path | None = None
) -> dict[str, str]:
    """Return name -> content of the files of an index, the header last. Training samples are shuffled. Raises UserError.

    label: cls, txt, a field of the JSON files, none, or auto (cls, or else a field called label, class or similar).
    out: the folder of the index, if the header must name the tars relative to it.
    """
    base = Path(os.path.commonpath([tar.resolve().parent for tar in tars]))
    samples = [(tar, list(_read_tar(tar, base, tuple(suffixes), label))) for tar in track(tars, "index of tars")]
    splits: dict[str, list[Found]] = {}
    for tar, found in samples:
        splits.setdefault(split_of_path(tar.resolve().relative_to(base)), []).extend(found)
    if not splits.get("train"):
        splits = {"train": [sample for _, found in samples for sample in found]}
    if not splits["train"]:
        raise UserError(
            f"data.root: {tars[0]} and {len(tars) - 1} more tars hold no video; looked for KEY.mp4 and other suffixes "
            f"({' '.join(suffixes)}). Unpack them, if they are archives of something else"
        )
    classes, members = _find_labels(splits, label)
    files: dict[str, str] = {}
    entries = {}
    for split, rows in members.items():
        if split == "train":
            rows = [rows[place] for place in TAR_ORDER.numpy(0).permutation(len(rows))]
        for number, start in enumerate(range(0, len(rows), SAMPLES)):
            part = {"columns": Member._fields, "samples": rows[start : start + SAMPLES]}
            files[f"{split}-{number:06d}.json"] = json.dumps(part, ensure_ascii=False)
        entries[split] = {"pattern": split + "-{:06d}.tar", "num_samples": len(rows), "samples_per_shard": SAMPLES}
    place = str(base) if out is None else os.path.relpath(base, out.resolve())
    header = {"format": FORMAT, "name": base.name, "tars": place, "splits": entries, "classes": classes}
    return files | {HEADER: json.dumps(header, ensure_ascii=False, indent=1)}


def _read_tar(tar: Path, base: Path, suffixes: tuple[str, ...], label: str) -> Iterator[Found]:
    """Yield the samples of a tar: consecutive files with the same key. A video is preferred to an image. Raises UserError."""
    name = tar.resolve().relative_to(base).as_posix()
    try:
        with tarfile.open(tar, "r:") as file:
            key, labels = "", dict[str, str]()
            media: Member | None = None
            for info in iter(file.next, None):
                file.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                folder, _, last = info.name.rpartition("/")
                stem, _, ending = last.partition(".")
                if not info.isreg() or not stem or not is_utf8(info.name):
                    continue
                this, suffix = f"{folder}/{stem}".lstrip("/"), "." + ending.lower().rpartition(".")[2]
                if this != key:
                    if media:
                        yield Found(f"{name}/{key}", media, labels)
                    key, media, labels = this, None, {}
                if suffix in suffixes and info.size and (media is None or (media.num_frames and suffix in SUFFIXES)):
                    frames = 1 if suffix in IMAGE_SUFFIXES else None
                    media = Member(key, f"{name}/{info.name}", info.offset_data, info.size, -1, 0, frames, name)
                elif suffix in LABEL_SUFFIXES and label != "none":
                    where = f"{tar}, {info.name}"
                    labels |= _read_labels(where, suffix, _read_content(where, file, info), label)
            if media:
                yield Found(f"{name}/{key}", media, labels)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"data.root: {tar}: {error}; expected a whole tar that is not compressed") from error
    except OSError as error:
        raise UserError(f"data.root: {tar}: {error.strerror or error}; expected a tar that can be read") from error


def _read_content(where: str, tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    if info.size > MOST_LABEL_BYTES:
        raise UserError(f"{where} has {info.size:,} bytes; expected a label of at most {MOST_LABEL_BYTES:,}")
    content = tar.extractfile(info)
    return content.read() if content else b""


def _read_labels(where: str, suffix: str, content: bytes, label: str) -> dict[str, str]:
    """Return the candidates for the label in a .cls, .txt or .json file."""
    kind = suffix[1:]
    if kind != "json":
        is_label = label == kind or (label, kind) == ("auto", "cls")
        return {kind: content.decode(errors="replace").strip()} if is_label else {}
    if label in ("cls", "txt"):
        return {}
    fields = parse_json(content.decode(errors="replace"), where, "an object with the label")
    pairs = fields.items() if isinstance(fields, dict) else ()
    wanted = {k: v for k, v in pairs if k == label or (label == "auto" and meaning_of(k) == "label")}
    return {k: str(v) for k, v in wanted.items() if isinstance(v, str | int) and not isinstance(v, bool)}


def _find_labels(splits: dict[str, list[Found]], label: str) -> tuple[list[str], dict[str, list[Member]]]:
    """Return the classes, and the samples of each split with their class. Raises UserError if no sample has a requested label."""
    samples = [sample for found in splits.values() for sample in found]
    names = list(dict.fromkeys(name for sample in samples for name in sample.labels))
    chosen = "cls" if "cls" in names else next(iter(names), "")
    if not chosen and label not in ("auto", "none"):
        raise UserError(f"--label {label}: no sample has it; expected cls, txt, or a field of the .json files")
    bare = {split: [sample.member for sample in found] for split, found in splits.items()}
    if not chosen:
        return [], bare
    try:
        labels = Labels([(sample.where, (sample.labels.get(chosen, ""),)) for sample in samples], (chosen,), None)
        members = {
            split: [s.member._replace(label=labels.number(s.where, (s.labels.get(chosen, ""),))) for s in found]
            for split, found in splits.items()
        }
    except UserError as error:
        if label != "auto":
            raise
        log.warning("%s; the tars are read without labels", error)
        return [], bare
    for note in labels.notes:
        log.warning("%s: %s", chosen, note)
    return labels.classes, members

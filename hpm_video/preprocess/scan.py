"""Find the files of a folder that can be read: decode each, count its frames, and report bad files with a reason. `hpm-video scan`."""

import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES, list_folder
from hpm_video.catalog.roots import tell_file
from hpm_video.catalog.rows import Row
from hpm_video.data.manifest import manifest_names, write_manifest
from hpm_video.data.readers.pixels import changes_size
from hpm_video.data.readers.probe import count_decoded, probe
from hpm_video.data.readers.read import read_frames
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.files import write_csv, write_text
from hpm_video.own_folder import own_folder
from hpm_video.preprocess.jobs import (
    Record,
    count_reasons,
    keep_settings,
    read_settings,
    run_jobs,
    write_bad,
    write_records,
)
from hpm_video.progress import tell_size

NUM_QUICK = 6  # frames to decode without --full: the first, the last, and some between
WRITTEN = ("scan.json", "results.jsonl", "good.txt", "bad.csv", "duplicates.csv", "summary.md")
NUM_SHOWN = 6  # entries of a list in the summary


def scan(root: Path, out: Path, full: bool, images: bool, num_workers: int, time_limit_s: float) -> str:
    """Write results.jsonl, good.txt, bad.csv, duplicates.csv, summary.md and a manifest of the good files into `out`, and
    return the summary. Raises UserError, also if `out` holds files of others."""
    check_folders(root, out)
    files = {name: root / name for name in list_folder(root, SUFFIXES + IMAGE_SUFFIXES if images else SUFFIXES)}
    with own_folder(out, "hpm-video scan", find_older_scan) as own:
        own.reserve([*WRITTEN, *manifest_names(["train"])])
        keep_settings(out / "scan.json", {"root": str(root.resolve())})
        records_file, work = out / "results.jsonl", partial(check_file, root=root.resolve(), full=full)
        records = run_jobs(files, work, records_file, f"scan {root}", {"full": full}, num_workers, time_limit_s)
        write_records(records_file, records)
        good = [record for record in records if "reason" not in record]
        duplicates = find_duplicates(good)
        write_text(out / "good.txt", "".join(f"{record['path']}\n" for record in good))
        write_bad(out, records)
        write_csv(out / "duplicates.csv", ["path", "same_as"], duplicates)
        rows = [Row(**{key: record[key] for key in ("path", "frames", "fps", "width", "height")}) for record in good]
        write_manifest(out, f"good files of {root.resolve().name}", root, {"train": rows}, [])
        lines = [*_summarise(root, records, len(duplicates), full), *_next_steps(out, bool(good))]
        summary = "\n".join(lines) + "\n"
        write_text(out / "summary.md", summary)
        return summary


def find_older_scan(folder: Path) -> list[str] | None:
    """Return the files of a scan by an earlier version, which wrote no mark; None for any other folder."""
    settings = read_settings(folder / "scan.json")
    if settings is None or set(settings) != {"root"}:
        return None
    return [name for name in (*WRITTEN, *manifest_names(["train"])) if (folder / name).is_file()]


def check_folders(root: Path, out: Path) -> None:
    """Raise UserError if `root` is not a folder, or if `out` lies in it."""
    if not root.is_dir():
        raise UserError(
            f"{root} is a file{tell_file(root)}" if root.exists() else f"{root} does not exist; expected a folder"
        )
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{out} lies in {root}, which is left as it is; expected a folder elsewhere for the results")


def check_file(name: str, root: Path, full: bool) -> Record:
    """Return the facts of a good file; width and height are as shown (upright, with square pixels). Raises
    UnreadableVideo."""
    file = root / name
    count, height, width = look_at(file)
    if full and (decoded := count_decoded(file)) < count:
        raise UnreadableVideo(str(file), f"only {decoded} of its {count} frames can be decoded")
    facts = probe(file)._asdict() | {"frames": count, "width": width, "height": height}
    facts["changes_size"] = changes_size(str(file))
    with file.open("rb") as stream:
        return facts | {"blake2b": hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=16)).hexdigest()}


def look_at(file: Path) -> tuple[int, int, int]:
    """Return (frames, height, width) as training sees them; decodes a few frames. Raises UnreadableVideo."""
    counts: list[int] = []

    def choose(count: int) -> np.ndarray:
        counts.append(count)
        return np.unique(np.linspace(0, count - 1, NUM_QUICK).astype(np.int64))

    frames = read_frames(file, choose)
    return counts[-1], frames.shape[1], frames.shape[2]


def find_duplicates(records: list[Record]) -> list[tuple[str, str]]:
    """Return (file, first file with the same content) for every later file."""
    first: dict[tuple[int, str], str] = {}
    found = []
    for record in records:
        original = first.setdefault((record["size"], record["blake2b"]), record["path"])
        if original != record["path"]:
            found.append((record["path"], original))
    return found


def _summarise(root: Path, records: list[Record], num_duplicates: int, full: bool) -> Iterator[str]:
    good = [record for record in records if "reason" not in record]
    how = "every frame of each" if full else f"up to {NUM_QUICK} frames of each, the first and the last among them"
    size = tell_size(sum(max(0, record["size"]) for record in records))
    yield f"# Scan of {root}"
    yield f"{len(records):,} files, {size}: **{len(good):,} good, {len(records) - len(good):,} bad**. Decoded: {how}."
    if len(good) < len(records):
        yield from _table(["bad files", "reason"], [(f"{number:,}", why) for why, number in count_reasons(records)])
    if not good:
        return
    yield from _table(["good files", "least", "median", "most"], _spread(good))
    yield from _table(["good files", "", "number"], [(w, v, f"{n:,}") for w, v, n in _count_kinds(good)])
    yield ""
    turned = sum(bool(record["rotation"]) for record in good)
    yield f"- turned by a flag (phones; read upright): {turned:,}"
    if "is_variable" in good[0]:
        yield f"- of variable frame rate: {sum(record['is_variable'] for record in good):,}"
    changing = [record["path"] for record in good if record.get("changes_size")]
    yield from _list_files("- change their size midway (read at the size of their first frame)", changing)
    squeezed = [record["path"] for record in good if record.get("pixel_aspect", 1.0) != 1]
    yield from _list_files("- with pixels that are not square (read with square ones, as players show them)", squeezed)
    yield f"- the same content as a file before it (duplicates.csv): {num_duplicates:,}"
    wrong = [r for r in good if r.get("header_frames") and r["header_frames"] != r["frames"]]
    yield f"- header claims another number of frames: {len(wrong):,}"
    yield from (
        f"  - {r['path']}: {r['frames']:,} frames, header says {r['header_frames']:,}" for r in wrong[:NUM_SHOWN]
    )
    if len(wrong) > NUM_SHOWN:
        yield "  - ... (all: header_frames beside frames in results.jsonl)"


def _list_files(what: str, names: list[str]) -> Iterator[str]:
    """Yield a line with the number of files, and one for each of the first files; nothing if there are none."""
    if names:
        yield f"{what}: {len(names):,}"
        yield from (f"  - {name}" for name in names[:NUM_SHOWN])


def _spread(good: list[Record]) -> list[tuple[str, ...]]:
    columns: list[tuple[str, Callable[[Record], float]]] = [
        ("frames", lambda r: r["frames"]),
        ("seconds", lambda r: r["seconds"]),
        ("frames/s", lambda r: r["fps"]),
        ("width, px", lambda r: r["width"]),
        ("height, px", lambda r: r["height"]),
        ("size, kB", lambda r: r["size"] / 1000),
    ]
    rows = []
    for name, get in columns:
        values = [get(record) for record in good]
        rows.append((name, *(f"{round(value, 2):,.10g}" for value in (min(values), median(values), max(values)))))
    return rows


def _count_kinds(good: list[Record]) -> Iterator[tuple[str, str, int]]:
    """Yield (property, value, files), the most frequent values of each."""
    kinds: list[tuple[str, Callable[[Record], str]]] = [
        ("codec", lambda r: f"{r['codec']} {r['pix_fmt']}"),
        ("ending", lambda r: Path(r["path"]).suffix.lower()),
        ("width x height", lambda r: f"{r['width']} x {r['height']}"),
    ]
    for what, get in kinds:
        counted = Counter(get(record) for record in good).most_common()
        yield from ((what, value, number) for value, number in counted[:NUM_SHOWN])
        if len(counted) > NUM_SHOWN:
            yield what, f"{len(counted) - NUM_SHOWN} others", sum(number for _, number in counted[NUM_SHOWN:])


def _table(head: list[str], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a markdown table with aligned columns."""
    cells = [tuple(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    yield from ("", lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:])


def _next_steps(out: Path, any_good: bool) -> Iterator[str]:
    yield ""
    yield f"In {out}: results.jsonl, good.txt, bad.csv (each file with its reason), duplicates.csv, summary.md."
    if any_good:
        yield f"Train on the good files: `hpm-video pretrain data.root={shlex.quote(str(out))}`"

"""Cut films into pieces, one row each, so that an epoch weighs films by their length (data.clips).

With uniform:S a film of D seconds has D / S pieces, rounded (at least 1), and the last one ends with the film. So a remainder
of less than half a piece lengthens the last piece, and a longer one is a piece of its own. Every frame is in one piece, and
only the piece of a short film is shorter than S / 2. (pytorchvideo's uniform sampler drops the remainder.)
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hpm_video.catalog.listing import SUFFIXES
from hpm_video.config.clip_rules import UNIFORM, ClipRule
from hpm_video.data.manifest import Manifest
from hpm_video.data.piece_columns import PIECE
from hpm_video.data.readers.index import stamp_of
from hpm_video.data.readers.length import read_length_s
from hpm_video.data.readers.limits import Limits
from hpm_video.errors import UnreadableVideo, UserError, import_for
from hpm_video.files import cache_folder, write_json

log = logging.getLogger("hpm_video")
NUM_THREADS = 8  # that open films: they mostly wait for the disk
Piece = tuple[float | None, float | None]  # start_s and stop_s


def cut_films(manifest: Manifest, rule: ClipRule, limits: Limits) -> pa.Table:
    """Return the rows of a manifest with a row for each piece of each film, in order. Rows that are pieces are cut further.

    Images and folders of frames stay. So does a film that cannot be opened: it is reported when it is read.
    """
    paths = manifest.table["path"].to_pylist()
    frames, starts, stops = (manifest.table[name].to_pylist() for name in ("frames", *PIECE))
    films = [p.lower().endswith(SUFFIXES) and n != 1 for p, n in zip(paths, frames, strict=True)]
    open_ended = {p for p, film, stop in zip(paths, films, stops, strict=True) if film and stop is None}
    lengths_s = read_lengths(manifest.root, sorted(open_ended), limits)
    rows: list[int] = []
    pieces: list[Piece] = []
    for row, (path, film, start, stop) in enumerate(zip(paths, films, starts, stops, strict=True)):
        end = lengths_s.get(path) if stop is None else stop
        found = cut(rule, start, stop, end) if film and end is not None else [(start, stop)]
        rows += [row] * len(found)
        pieces += found
    table = manifest.table.take(pa.array(rows, pa.int64())).combine_chunks()
    for name, values in zip(PIECE, zip(*pieces, strict=True) if pieces else ([], []), strict=True):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    log.info("%s: %d films are cut into %d pieces (data.clips)", manifest.source, sum(films), len(rows))
    return table


def cut(rule: ClipRule, start: float | None, stop: float | None, end_s: float) -> list[Piece]:
    """Return the pieces of start..stop in seconds (None: start or end of the film). `end_s`: the end of the last piece."""
    first = start or 0.0
    length = end_s - first
    if length <= 0:  # the reader reports it
        return [(start, stop)]
    if rule.kind != UNIFORM:
        return [(first + a, min(first + b, end_s)) for a, b in sample_pieces(rule, length)]
    number = max(1, int(length / rule.seconds + 0.5))
    edges = [start if number == 1 else first, *(first + rule.seconds * k for k in range(1, number)), stop]
    return list(zip(edges[:-1], edges[1:], strict=True))


def sample_pieces(rule: ClipRule, length_s: float) -> list[tuple[float, float]]:
    """Return (start, stop) in seconds of the pieces that pytorchvideo's sampler gives for a film of this length."""
    sampling = import_for(f"data.clips: {rule.kind}", "pytorchvideo.data.clip_sampling")
    sampler, found, is_last, last_s = sampling.make_clip_sampler(rule.kind, rule.seconds, rule.number), [], False, 0.0
    while not is_last:
        start, last_s, _, _, is_last = sampler(last_s, length_s, {})
        found.append((float(start), float(last_s)))
    return found


def read_lengths(root: Path, paths: Sequence[str], limits: Limits) -> dict[str, float]:
    """Return the length in seconds of each film that can be opened. Lengths are cached, in one file per root."""
    file = _file_of(root)
    known = _read_known(file)
    stamps: dict[str, str] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            stamps[path] = stamp_of(os.stat(root / path))
    absent = [path for path, stamp in stamps.items() if known.get(path, [""])[0] != stamp]
    if absent:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = zip(absent, pool.map(lambda path: _length_s(root / path, limits), absent), strict=True)
            known |= {path: [stamps[path], seconds] for path, seconds in found if seconds is not None}
        _write_known(file, known)
    return {path: known[path][1] for path, stamp in stamps.items() if known.get(path, [""])[0] == stamp}


def _length_s(file: Path, limits: Limits) -> float | None:
    try:
        return read_length_s(str(file), limits)
    except UnreadableVideo:
        return None


def _file_of(root: Path) -> Path | None:
    folder = cache_folder("lengths")
    return folder and folder / f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:40]}.json"


def _read_known(file: Path | None) -> dict[str, Any]:
    """Return path -> [stamp, seconds]; nothing if the file is absent or damaged."""
    try:
        content = json.loads(file.read_bytes()) if file else {}
        pairs: Iterable = content.items() if isinstance(content, dict) else ()
        return {p: [str(stamp), float(seconds)] for p, (stamp, seconds) in pairs if np.isfinite(seconds)}
    except (OSError, ValueError, TypeError):
        return {}


def _write_known(file: Path | None, known: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, UserError):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, known)

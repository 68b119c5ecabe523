"""Read LeRobot data sets. Each camera films every episode: version 2 stores one film per episode, version 3 many episodes per film."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpm_video.catalog.columns import read_split
from hpm_video.catalog.rows import Entry, Found, collect_rows
from hpm_video.catalog.texts import name_some, parse_json, read_json, read_lines
from hpm_video.errors import UserError, first_line

Episode = dict[str, Any]


def read_lerobot(root: Path, cameras: tuple[str, ...] = ()) -> Found:
    """Read one row for each episode and camera. If there are several tasks, they are the classes. An episode is a group.

    cameras: names of video features to read; () = all. Source: meta/info.json, with meta/episodes/**/*.parquet
    (version 3) or meta/episodes.jsonl (version 2). Raises UserError.
    """
    file = root / "meta" / "info.json"
    info = read_json(file, dict, "the description of a LeRobot data set")
    features = info.get("features")
    pairs = features.items() if isinstance(features, dict) else ()
    known = [name for name, kind in pairs if isinstance(kind, dict) and kind.get("dtype") == "video"]
    unknown = [name for name in cameras if name not in known]
    if unknown or not known:
        raise UserError(
            f"{file}: no video of {unknown[0] if unknown else 'any camera'}; "
            f"expected some of: {', '.join(known) or 'no feature is a video'}"
        )
    episodes = _read_episodes(root)
    classes = sorted({_task_of(episode) for episode in episodes} - {""})
    entries: dict[str, list[Entry]] = {}
    splits = _read_splits(info, file)
    unused = []  # numbers of episodes
    for episode in episodes:
        number = episode["episode_index"]
        split = next((name for name, numbers in splits if number in numbers), "")
        if split:
            entries.setdefault(split, []).extend(
                _entries_of(root, info, episode, cameras or tuple(known), len(classes) > 1)
            )
        else:
            unused.append(str(number))
    found = collect_rows(entries, classes if len(classes) > 1 else [])
    note = f"{len(unused)} of {len(episodes)} episodes are in no split of info.json; left out: {name_some(unused)}"
    return found._replace(notes=(note,)) if unused else found


def _read_episodes(root: Path) -> list[Episode]:
    """Return the rows of the episode list, without the statistics, sorted by episode_index. Raises UserError."""
    lines = root / "meta" / "episodes.jsonl"
    if lines.is_file():
        expected = 'lines {"episode_index": 0, "tasks": ["Pick the cube"], "length": 300}'
        found = [
            (f"{lines}, line {n}", parse_json(text, f"{lines}, line {n}", expected))
            for n, text in read_lines(lines, expected)
        ]
    else:
        files = sorted((root / "meta" / "episodes").glob("**/*.parquet"))
        found = [(str(file), episode) for file in files for episode in _read_table(file)]
    for where, episode in found:
        if not isinstance(episode, dict) or type(episode.get("episode_index")) is not int:
            raise UserError(f"{where}: an episode without episode_index; expected the list of episodes of LeRobot")
    if not found:
        raise UserError(
            f"{root}/meta: lists no episodes; expected episodes/chunk-000/file-000.parquet or episodes.jsonl"
        )
    return sorted((episode for _, episode in found), key=lambda episode: episode["episode_index"])


def _read_table(file: Path) -> Iterator[Episode]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        names = [n for n in table.schema_arrow.names if n in ("episode_index", "tasks") or n.startswith("videos/")]
        yield from table.read(names).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: {first_line(error)}; expected the list of episodes as a Parquet table") from error


def _task_of(episode: Episode) -> str:
    tasks = episode.get("tasks")
    return "; ".join(map(str, tasks)) if isinstance(tasks, list) else str(tasks or "")


def _read_splits(info: dict[str, Any], file: Path) -> list[tuple[str, range]]:
    """Return the splits of info.json ("train": "0:50") and the numbers of their episodes, the last one first, as it wins;
    without them every episode is for training."""
    given = info.get("splits") or {"train": "0:"}
    try:
        parts = [(name, text.partition(":")) for name, text in given.items()]
        return [
            (read_split(name, str(file), "splits"), range(int(start or 0), int(stop or sys.maxsize)))
            for name, (start, _, stop) in reversed(parts)
        ]
    except (AttributeError, ValueError) as error:
        raise UserError(f'{file}: splits {str(given)[:80]}; expected as in {{"train": "0:50"}}') from error


def _entries_of(
    root: Path, info: dict[str, Any], episode: Episode, cameras: tuple[str, ...], labelled: bool
) -> Iterator[Entry]:
    """Yield an entry for each camera that has a video of the episode."""
    number = episode["episode_index"]
    where, label = f"episode {number}", _task_of(episode) if labelled else ""
    for camera in cameras:
        video = {
            key: episode.get(f"videos/{camera}/{key}")
            for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        }
        if f"videos/{camera}/file_index" in episode and video["file_index"] is None:
            continue
        fields = {"video_key": camera, "episode_index": number}
        fields |= {key: video[key] for key in ("chunk_index", "file_index") if video[key] is not None}
        try:
            fields["episode_chunk"] = number // int(info.get("chunks_size") or 1000)
            path = _fill(info["video_path"], fields)
            span = _snap(video["from_timestamp"], video["to_timestamp"], float(info["fps"]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(
                f"{root}/meta: {where} of {camera}: {repr(error)[:200]}; expected video_path and fps in info.json, and chunk_index, "
                "file_index, from_timestamp and to_timestamp in the list of episodes"
            ) from error
        yield Entry(where, path if os.path.isfile(root / path) else None, path, label, where, *span)


def _fill(pattern: str, fields: dict[str, Any]) -> str:
    """Return the path of a pattern such as videos/{video_key}/file-{file_index:03d}.mp4. Raises ValueError for other patterns:
    they could read attributes, or ask for gigabytes of blanks."""
    if other := re.search(r"\{(?!\w+(?::0?\d{1,2}d)?\})", pattern):
        raise ValueError(f"video_path {pattern[other.start() :][:40]}")
    return pattern.format(**fields)


def _snap(start: float | None, stop: float | None, fps: float) -> tuple[float | None, float | None]:
    """Return start and stop of a piece, moved halfway between two frames, so that rounding cannot lose a frame.

    (None, None): a whole film.
    """
    if start is None and stop is None:
        return None, None
    first, last = (max(0.0, round(float(second) * fps) - 0.5) / fps for second in (start, stop))  # type: ignore[arg-type]
    if last <= first:
        raise ValueError(f"from {start} to {stop} s")
    return round(first, 6), round(last, 6)

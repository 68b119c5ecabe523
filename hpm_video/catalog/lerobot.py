"""LeRobot: episodes of robots, in version 3 many of them in one film of each camera, in version 2 each in a film of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpm_video.catalog.columns import read_split
from hpm_video.catalog.rows import Entry, Found, collect_rows
from hpm_video.catalog.texts import parse_json, read_json, read_lines
from hpm_video.errors import UserError

Episode = dict[str, Any]


def read_lerobot(root: Path, cameras: tuple[str, ...] = ()) -> Found:
    """Read the episodes, a row for each camera. The class of a row is its task, if there are several; its group the episode.

    cameras: the features of videos that are taken; () = all. Source: meta/info.json, with meta/episodes/**/*.parquet
    (version 3) or meta/episodes.jsonl (version 2). Raises UserError.
    """
    file = root / "meta" / "info.json"
    info = read_json(file, dict, "the description of a LeRobot data set")
    features = info.get("features")
    known = [k for k, v in features.items() if v.get("dtype") == "video"] if isinstance(features, dict) else []
    if wrong := [name for name in cameras if name not in known] or (["any camera"] if not known else []):
        raise UserError(
            f"{file}: no video of {wrong[0]}; expected some of: {', '.join(known) or 'no feature is a video'}"
        )
    episodes = _read_episodes(root)
    classes = sorted({_task_of(episode) for episode in episodes} - {""})
    entries: dict[str, list[Entry]] = {}
    splits = _read_splits(info, len(episodes), file)
    for episode in episodes:
        split = splits.get(episode["episode_index"])
        if split:
            entries.setdefault(split, []).extend(
                _entries_of(root, info, episode, cameras or tuple(known), len(classes) > 1)
            )
    return collect_rows(dict(entries), classes if len(classes) > 1 else [])


def _read_episodes(root: Path) -> list[Episode]:
    """Return the rows of the list of episodes, without its statistics, by their numbers. Raises UserError."""
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
        raise UserError(f"{file}: {error}; expected the list of episodes as a Parquet table") from error


def _task_of(episode: Episode) -> str:
    tasks = episode.get("tasks")
    return "; ".join(map(str, tasks)) if isinstance(tasks, list) else str(tasks or "")


def _read_splits(info: dict[str, Any], count: int, file: Path) -> dict[int, str]:
    """Return episode -> split, as splits of info.json ("train": "0:50") says; without it all are for training."""
    given, splits = info.get("splits") or {"train": f"0:{count}"}, dict[int, str]()
    try:
        for name, text in given.items():
            start, _, stop = text.partition(":")
            splits |= dict.fromkeys(range(int(start or 0), int(stop or count)), read_split(name, str(file), "splits"))
    except (AttributeError, ValueError) as error:
        raise UserError(f'{file}: splits {given}; expected as in {{"train": "0:50"}}') from error
    return splits


def _entries_of(
    root: Path, info: dict[str, Any], episode: Episode, cameras: tuple[str, ...], labelled: bool
) -> Iterator[Entry]:
    """Yield the entry of each camera; none if the episode has no video of it."""
    number = episode["episode_index"]
    where, label = f"episode {number}", _task_of(episode) if labelled else ""
    for camera in cameras:
        told = {
            key: episode.get(f"videos/{camera}/{key}")
            for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        }
        if f"videos/{camera}/file_index" in episode and told["file_index"] is None:
            continue
        places = {
            "video_key": camera,
            "episode_index": number,
            "episode_chunk": number // int(info.get("chunks_size") or 1000),
        }
        places |= {key: told[key] for key in ("chunk_index", "file_index") if told[key] is not None}
        try:
            path = info["video_path"].format(**places)
            span = _snap(told["from_timestamp"], told["to_timestamp"], float(info["fps"]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise UserError(
                f"{root}/meta: {where} of {camera}: {error!r}; expected video_path and fps in info.json, and chunk_index, "
                "file_index, from_timestamp and to_timestamp in the list of episodes"
            ) from error
        yield Entry(where, path if (root / path).is_file() else None, path, label, where, *span)


def _snap(start: float | None, stop: float | None, fps: float) -> tuple[float | None, float | None]:
    """Return the seconds of a piece, moved to the middle between frames: sums and rounding of times then lose no frame.

    (None, None): a whole film.
    """
    if start is None and stop is None:
        return None, None
    first, behind = (max(0.0, round(float(second) * fps) - 0.5) / fps for second in (start, stop))  # type: ignore[arg-type]
    if behind <= first:
        raise ValueError(f"from {start} to {stop} s")
    return round(first, 6), round(behind, 6)

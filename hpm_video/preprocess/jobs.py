"""Run the same work on many files: in parallel, resumable, and supervised, so that a file that hangs or crashes is named."""

import contextlib
import json
import logging
import multiprocessing
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.files import disk_faults, write_csv, write_json, write_text
from hpm_video.progress import Progress
from hpm_video.reading import parse_json

log = logging.getLogger("hpm_video")
Record = dict[str, Any]
RECYCLED_AFTER = 1000  # files per worker process, as codec libraries leak memory
SPECIAL = "is a pipe, a socket or a device, not a file"


def run_jobs(
    files: Mapping[str, Path],
    work: Callable[[str], Record],
    record_file: Path,
    title: str,
    settings: Record,
    num_workers: int,
    time_limit_s: float,
    still_good: Callable[[Record], bool] = lambda record: True,
) -> list[Record]:
    """Return a record for each name of `files`, in the same order: path, size (bytes), mtime_ns, settings, and the
    answer of `work`, or a `reason` if `work` raised, timed out or ended its process.

    `work` must be picklable; worker processes call it. Each record is appended to `record_file` at once, as one line. A
    name is skipped if it has a line with the same size, time and settings and `still_good` returns True. Pipes and
    devices are not opened. The caller must hold the folder of `record_file`, so that no other process appends. Raises
    the UserErrors of `work`. An interrupt ends the workers and is raised.
    """
    with disk_faults(record_file), record_file.open("a+", encoding="utf-8") as stream:
        stats = {name: _stat(file) for name, file in files.items()}
        stamps = {name: {"path": name, **_stamp(found), "settings": settings} for name, found in stats.items()}
        special = {name for name, found in stats.items() if _is_special(found)}
        done = {}
        for record in _read_records(stream):
            stamp = stamps.get(record["path"])
            if stamp and stamp.items() <= record.items() and record.get("limit_s", time_limit_s) >= time_limit_s:
                if still_good(record):
                    done[record["path"]] = record
        left = [name for name in files if name not in done]
        to_open = [name for name in left if name not in special]
        not_opened = [(name, {"reason": SPECIAL}) for name in left if name in special]
        num_bad = sum("reason" in record for record in done.values())
        with (
            contextlib.closing(_supervise(to_open, work, num_workers, time_limit_s)) as answers,
            Progress(title, "files", len(files), len(done)) as progress,
        ):
            for name, answer in chain(not_opened, answers):
                done[name] = stamps[name] | answer
                stream.write(json.dumps(done[name]) + "\n")
                stream.flush()
                num_bad += "reason" in answer
                progress.show(len(done), num_bad)
    return [done[name] for name in files]


def write_records(record_file: Path, records: Iterable[Record]) -> None:
    """Replace the lines that all runs have appended with these records, one per file."""
    write_text(record_file, "".join(json.dumps(record) + "\n" for record in records))


def read_records(record_file: Path) -> list[Record]:
    """Return the records of all complete lines; [] if there is no such file."""
    if not record_file.is_file():
        return []
    with record_file.open(encoding="utf-8", errors="replace") as stream:
        return [record for line in stream if (record := _read_record(line)) is not None]


def keep_settings(file: Path, settings: Record) -> None:
    """Write the settings. If the file exists, raise a UserError that names the settings that differ from it."""
    if not file.exists():
        write_json(file, settings)
        return
    kept = read_settings(file)
    if kept is None:
        raise UserError(f"{file}: not the settings of a run; expected an empty folder")
    changed = [
        f"{n} {kept.get(n)!r} -> {settings.get(n)!r}" for n in {**kept, **settings} if kept.get(n) != settings.get(n)
    ]
    if changed:
        raise UserError(
            f"{file.parent} was made with other settings: {', '.join(changed)}; expected the same, or another folder"
        )


def read_settings(file: Path) -> Record | None:
    """Return the settings that `keep_settings` wrote; None if the file is missing or something else."""
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_bad(folder: Path, records: Iterable[Record]) -> None:
    """Write bad.csv: path and reason of each file that could not be used."""
    write_csv(folder / "bad.csv", ["path", "reason"], ((r["path"], r["reason"]) for r in records if "reason" in r))


def count_reasons(records: Iterable[Record]) -> list[tuple[str, int]]:
    """Count the reasons, the most frequent first. Reasons that differ only in their numbers count as one; the first is
    shown."""
    groups: dict[str, list[str]] = {}
    for record in records:
        if "reason" in record:
            groups.setdefault(re.sub(r"\d+", "N", record["reason"]), []).append(record["reason"])
    counted = [
        (each[0] if len(set(each)) == 1 else f"{each[0]} (or other numbers)", len(each)) for each in groups.values()
    ]
    return sorted(counted, key=lambda pair: -pair[1])


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:  # `work` will report it
        return None


def _stamp(found: os.stat_result | None) -> Record:
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns} if found else {"size": -1, "mtime_ns": 0}


def _is_special(found: os.stat_result | None) -> bool:
    return found is not None and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode)


def is_special(file: Path) -> bool:
    """Return whether a path is a pipe, a socket or a device, as opening one can block for ever."""
    return _is_special(_stat(file))


def _read_records(stream: TextIO) -> list[Record]:
    """Read the complete lines; cut off a half-written last line, so that the next record starts a new line."""
    stream.seek(0)
    records, end = [], 0
    for line in stream.read().splitlines(keepends=True):
        if (record := _read_record(line)) is not None:
            records.append(record)
        end += len(line.encode()) if line.endswith("\n") else 0
    stream.truncate(end)
    stream.seek(0, os.SEEK_END)
    return records


def _read_record(line: str) -> Record | None:
    """Return the record of a complete line; None for any other line."""
    with contextlib.suppress(ValueError):
        record = parse_json(line)
        if line.endswith("\n") and isinstance(record, dict) and isinstance(record.get("path"), str):
            return record
    return None


def _supervise(
    names: list[str], work: Callable[[str], Record], num_workers: int, time_limit_s: float
) -> Generator[tuple[str, Record], None, None]:
    """Yield (name, answer) in the order of completion. Only a few names are scheduled at a time, so that an interrupt has
    little to wait for."""
    if not names:
        return
    from concurrent.futures import FIRST_COMPLETED, Future, wait

    from pebble import ProcessPool

    # Workers are forked from a server process that has no threads and has imported what they need; Windows spawns them.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__, getattr(work, "func", work).__module__])
    pool = ProcessPool(min(num_workers, len(names)), RECYCLED_AFTER, _guard_worker, context=context)
    running: dict[Future, str] = {}
    queue = iter(names)
    try:
        while True:
            for name in islice(queue, 3 * num_workers - len(running)):
                running[pool.schedule(_answer, [work, name], timeout=time_limit_s)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _outcome(future, time_limit_s)
    finally:
        pool.stop()
        pool.join()


def _guard_worker() -> None:
    """Prepare a worker: the parent handles Ctrl-C, SIGTERM ends even a codec that hangs, and the worker ends with its
    parent. Silence stderr, as codecs would write into the progress bar."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _answer(work: Callable[[str], Record], name: str) -> Record:
    try:
        name.encode()
    except UnicodeEncodeError:
        return {"reason": "its name is not UTF-8"}
    if "\n" in name or "\r" in name:
        return {"reason": "its name holds a line break"}
    try:
        return work(name)
    except UnreadableVideo as error:
        # The record names the path already
        return {"reason": re.sub(rf"(: )?'?{re.escape(error.path)}'?", "", error.reason)}
    except UserError:
        raise
    except Exception as error:  # from any library: this file is bad, the others continue
        return {"reason": f"{type(error).__name__}: {error}"}


def _outcome(future: Any, time_limit_s: float) -> Record:
    from concurrent.futures import TimeoutError
    from concurrent.futures.process import BrokenProcessPool

    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return {"reason": f"no answer within {time_limit_s:g} s", "limit_s": time_limit_s}
    except ProcessExpired as error:
        how = f"signal {-error.exitcode}" if error.exitcode < 0 else f"exit status {error.exitcode}"
        return {"reason": f"the reader crashed ({how}{': out of memory?' if error.exitcode == -9 else ''})"}
    except BrokenProcessPool as error:
        raise UserError(
            f"the worker processes were ended from outside ({error}); run the same command again"
        ) from error

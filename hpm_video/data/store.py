"""Ranged reads of files on disks and in stores, which outlast a store that does not answer for a while.

A fault of a store is not one of the file. The store is asked again with growing waits, which is logged once, and
once more when it answers again; only after `timeout_s` the reading ends with an error.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError

from hpm_video.data.watch import FETCHING, Watch
from hpm_video.errors import UserError

log = logging.getLogger("hpm_video")
T = TypeVar("T")
HEADER = "shards.json"
RETRY_AFTER_S = (0.1, 1.0)  # of a disk, which does not come back
WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # of a store; the last one again and again
ON_THIS_MACHINE = {"file", "local", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
TRY_LATER = (408, 425, 429)  # of HTTP's statuses 400 to 499
NO_RANGES = (
    "sends whole files if asked for a part (no HTTP range requests); expected a server that has them (nginx, Apache, Caddy, "
    "an S3 store; not python -m http.server). Try another server, or a copy of the shards on a disk"
)

watch: Watch | None = None  # in a reading process: to note that it waits


def log_store(root: str, reason: str | None, timeout_s: float) -> None:
    """Log that a store does not answer and why, or that it answers again."""
    if reason is None:
        log.warning("%s answers again", root)
    else:
        text = "%s does not answer (%s); it is asked again for up to %g s (data.store_timeout_s)"
        log.warning(text, root, reason, timeout_s)


tell: Callable[[str, str | None, float], None] = log_store  # in a reading process: to the process that waits for it


def read(root: str, file: str, timeout_s: float, start: int | None = None, end: int | None = None) -> bytes:
    """Read bytes start to end of a file below `root` (a folder or URL), or all of it.

    Raises FileNotFoundError; other errors of the file itself as they are; UserError if the store does not answer for
    `timeout_s`, refuses to, or cannot send parts.
    """
    content = ask(root, file, timeout_s, lambda *how: _call("cat_file", *how, start=start, end=end))
    if start is not None and end is not None and len(content) > end - start:
        raise UserError(f"data.root: {root} {NO_RANGES}")
    return content


def check_ranges(root: str, file: str, timeout_s: float) -> None:
    """Raise UserError if this is a web server that sends whole files only. The answer's body is not read."""
    system = _open(root, os.getpid())[0]
    if _protocol(system) not in ("http", "https"):
        return

    async def get_status(path: str) -> int:
        session = await system.set_session()
        given = system.kwargs | {"headers": {**system.kwargs.get("headers", {}), "Range": "bytes=512-1023"}}
        async with session.get(system.encode_url(path), **given) as answer:
            if answer.status >= 500 or answer.status in TRY_LATER:
                answer.raise_for_status()
            return answer.status

    if ask(root, file, timeout_s, lambda _, path, limit_s: sync(system.loop, get_status, path, timeout=limit_s)) == 200:
        raise UserError(f"data.root: {root} {NO_RANGES}")


def fingerprint(root: str, file: str, timeout_s: float) -> str:
    """Return what changes when the file does. Raises as `read`."""
    return ask(root, file, timeout_s, lambda system, path, limit_s: system.ukey(path))


def ask(root: str, file: str, timeout_s: float, do: Callable[[fsspec.AbstractFileSystem, str, float], T]) -> T:
    """Return do(file system, path, seconds that it may take); see `read` for what is raised."""
    system, folder = _open(root, os.getpid())
    path = f"{folder.rstrip('/')}/{file}"

    def once() -> T:
        with nullcontext() if watch is None else watch.on(FETCHING):
            try:
                return do(system, path, timeout_s / 2)
            except FSTimeoutError as error:
                raise TimeoutError(f"no answer within {timeout_s / 2:g} s") from error

    if _protocol(system) in ON_THIS_MACHINE:
        return _ask_disk(once)
    try:
        return _ask_store(once, root, timeout_s)
    except Exception as error:
        if _judge(error) == "refused" and (file == HEADER or not _reads_header(root, timeout_s)):
            raise UserError(
                f"data.root: {root} refuses to be read ({describe(error)}); expected a place that you may read. Try other "
                "credentials (of S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; FSSPEC_S3_ANON=true for a "
                "public bucket)"
            ) from error
        raise


def _ask_disk(once: Callable[[], T]) -> T:
    """Ask a disk. It does not come back: what fails for a second is a fault of the file."""
    for wait_s in RETRY_AFTER_S:
        try:
            return once()
        except Exception as error:
            if _judge(error) != "away":
                raise
            time.sleep(wait_s)
    return once()


def _ask_store(once: Callable[[], T], root: str, timeout_s: float) -> T:
    """Ask until there is an answer, or a fault of the file."""
    until, away = time.monotonic() + timeout_s, False
    for wait_s in chain(WAITS_S, repeat(WAITS_S[-1])):
        try:
            answer = once()
            break
        except Exception as error:
            if _judge(error) != "away":
                raise
            left_s, reason = until - time.monotonic(), describe(error)
            if left_s <= 0:
                raise UserError(
                    f"data.root: {root} has not answered for {timeout_s:g} s ({reason}); expected a store that is back within "
                    "data.store_timeout_s. Run the same command again when it is"
                ) from error
        if not away:
            tell(root, reason, timeout_s)
            away = True
        with nullcontext() if watch is None else watch.on(FETCHING):
            time.sleep(min(wait_s, left_s))
    if away:
        tell(root, None, timeout_s)
    return answer


def _reads_header(root: str, timeout_s: float) -> bool:
    """Return whether the store lets another file be read: then it is this file that must not be."""
    try:
        ask(root, HEADER, timeout_s, lambda *how: _call("cat_file", *how, start=0, end=1))
    except (UserError, OSError):
        return False
    return True


def describe(error: BaseException) -> str:
    """Return the type of an error and the first line of what it says."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _call(name: str, system: fsspec.AbstractFileSystem, path: str, limit_s: float, **given: Any) -> Any:
    if isinstance(system, AsyncFileSystem):
        return sync(system.loop, getattr(system, f"_{name}"), path, timeout=limit_s, **given)
    return getattr(system, name)(path, **given)


def _judge(error: BaseException) -> str:
    """Return the cause of a fault: missing or bad (the file), refused or away (the store)."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError) or status in (401, 403, 407) or type(error).__name__ in REFUSALS:
        return "refused"
    if isinstance(status, int) and 400 <= status < 500 and status not in TRY_LATER:
        return "bad"
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # s3fs: a range behind the end
        return "bad"
    return (
        "bad" if isinstance(error, ImportError | ValueError | TypeError | NotImplementedError | UserError) else "away"
    )


def _protocol(system: fsspec.AbstractFileSystem) -> str:
    return system.protocol if isinstance(system.protocol, str) else system.protocol[0]


@lru_cache(maxsize=4)
def _open(root: str, process: int) -> tuple[fsspec.AbstractFileSystem, str]:
    """Open a file system. Each process has its own: connections and threads do not survive a fork."""
    try:
        return url_to_fs(root)
    except ImportError as error:
        extra = EXTRAS.get(root.partition("://")[0])
        how = f"pip install 'hpm-video[{extra}]'" if extra else f"what fsspec asks for ({error})"
        raise UserError(f"data.root: {root} needs a library that is not installed; expected {how}") from error

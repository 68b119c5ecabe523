"""Ranged reads of files on disks and in stores, with retries if a store does not answer for a while.

A fault of the store is not a fault of the file. Reads are retried with growing waits. That is logged once, and once more when
the store answers again. Only after `timeout_s` does the read fail.
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
RETRY_AFTER_S = (0.1, 1.0)  # for a disk, which does not come back
WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # for a store; the last one is repeated
ON_THIS_MACHINE = {"file", "local", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
TRY_LATER = (408, 425, 429)  # HTTP statuses from 400 to 499 that may pass
NO_RANGES = (
    "sends whole files if asked for a part (no HTTP range requests); expected a server that has them (nginx, Apache, Caddy, "
    "an S3 store; not python -m http.server). Try another server, or a copy of the shards on a disk"
)

watch: Watch | None = None  # in a worker: to note that it waits


def log_store(root: str, reason: str | None, timeout_s: float) -> None:
    """Log that a store does not answer and why, or that it answers again."""
    if reason is None:
        log.warning("%s answers again", root)
    else:
        text = "%s does not answer (%s); retrying for up to %g s (data.store_timeout_s)"
        log.warning(text, root, reason, timeout_s)


report: Callable[[str, str | None, float], None] = log_store  # in a worker: sends it to the training process


def read(root: str, file: str, timeout_s: float, start: int | None = None, end: int | None = None) -> bytes:
    """Read the bytes from start to end of a file below `root` (a folder or URL), or all of it.

    Raises FileNotFoundError, other errors of the file unchanged, and UserError if the store does not answer for `timeout_s`,
    refuses access or cannot send parts.
    """
    content = with_retries(root, file, timeout_s, lambda *how: _call("cat_file", *how, start=start, end=end))
    if start is not None and end is not None and len(content) > end - start:
        raise UserError(f"data.root: {root} {NO_RANGES}")
    return content


def check_ranges(root: str, file: str, timeout_s: float) -> None:
    """Raise UserError if this is a web server that sends only whole files. Does not read the body of the answer."""
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

    status = with_retries(
        root, file, timeout_s, lambda _, path, limit_s: sync(system.loop, get_status, path, timeout=limit_s)
    )
    if status == 200:
        raise UserError(f"data.root: {root} {NO_RANGES}")


def fingerprint(root: str, file: str, timeout_s: float) -> str:
    """Return a text that changes when the file does. Raises as `read`."""
    return with_retries(root, file, timeout_s, lambda system, path, limit_s: system.ukey(path))


def with_retries(root: str, file: str, timeout_s: float, do: Callable[[fsspec.AbstractFileSystem, str, float], T]) -> T:
    """Return do(file system, path, time limit in seconds). Raises as `read`."""
    system, folder = _open(root, os.getpid())
    path = f"{folder.rstrip('/')}/{file}"

    def attempt() -> T:
        with nullcontext() if watch is None else watch.during(FETCHING):
            try:
                return do(system, path, timeout_s / 2)
            except FSTimeoutError as error:
                raise TimeoutError(f"no answer within {timeout_s / 2:g} s") from error

    if _protocol(system) in ON_THIS_MACHINE:
        return _retry_disk(attempt)
    try:
        return _retry_store(attempt, root, timeout_s)
    except Exception as error:
        if _classify(error) == "refused" and (file == HEADER or not _can_read_header(root, timeout_s)):
            raise UserError(
                f"data.root: {root} refuses to be read ({describe(error)}); expected a place that you may read. Try other "
                "credentials (of S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; FSSPEC_S3_ANON=true for a "
                "public bucket)"
            ) from error
        raise


def _retry_disk(attempt: Callable[[], T]) -> T:
    """Retry for a second. A disk does not come back: an error that lasts is a fault of the file."""
    for wait_s in RETRY_AFTER_S:
        try:
            return attempt()
        except Exception as error:
            if _classify(error) != "unavailable":
                raise
            time.sleep(wait_s)
    return attempt()


def _retry_store(attempt: Callable[[], T], root: str, timeout_s: float) -> T:
    """Retry until there is an answer, a fault of the file, or a timeout."""
    until, is_reported = time.monotonic() + timeout_s, False
    for wait_s in chain(WAITS_S, repeat(WAITS_S[-1])):
        try:
            answer = attempt()
            break
        except Exception as error:
            if _classify(error) != "unavailable":
                raise
            left_s, reason = until - time.monotonic(), describe(error)
            if left_s <= 0:
                raise UserError(
                    f"data.root: {root} has not answered for {timeout_s:g} s ({reason}); expected a store that is back within "
                    "data.store_timeout_s. Run the same command again when it is"
                ) from error
        if not is_reported:
            report(root, reason, timeout_s)
            is_reported = True
        with nullcontext() if watch is None else watch.during(FETCHING):
            time.sleep(min(wait_s, left_s))
    if is_reported:
        report(root, None, timeout_s)
    return answer


def _can_read_header(root: str, timeout_s: float) -> bool:
    """Return whether the header can be read: then the store refuses only this file."""
    try:
        with_retries(root, HEADER, timeout_s, lambda *how: _call("cat_file", *how, start=0, end=1))
    except (UserError, OSError):
        return False
    return True


def describe(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _call(name: str, system: fsspec.AbstractFileSystem, path: str, limit_s: float, **given: Any) -> Any:
    if isinstance(system, AsyncFileSystem):
        return sync(system.loop, getattr(system, f"_{name}"), path, timeout=limit_s, **given)
    return getattr(system, name)(path, **given)


def _classify(error: BaseException) -> str:
    """Return the cause of an error: "file" if it is missing or bad, or of the store "refused" or "unavailable"."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError):
        return "file"
    if isinstance(error, PermissionError) or status in (401, 403, 407) or type(error).__name__ in REFUSALS:
        return "refused"
    is_final = isinstance(status, int) and 400 <= status < 500 and status not in TRY_LATER
    is_beyond_end = isinstance(error, OSError) and error.errno == errno.EINVAL  # so s3fs reports such a range
    is_fault = isinstance(error, ImportError | ValueError | TypeError | NotImplementedError | UserError)
    return "file" if is_final or is_beyond_end or is_fault else "unavailable"


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

"""Check that a file is regular, and name what it holds if it cannot be decoded."""

import os
import stat

from hpm_video.errors import UnreadableVideo

KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
CONTENTS = (
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<head", "a web page"),
    (b"<?xml", "an XML text"),
    (b"#extm3u", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%pdf", "a PDF"),
)


def name_of(media: str | bytes) -> str:
    """Return the name of a file in messages."""
    return "(bytes)" if isinstance(media, bytes) else media


def check_file(path: str) -> None:
    """Raise UnreadableVideo unless the path is a regular file that is not empty: nothing else is ever opened."""
    try:
        found = os.stat(path)
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason = "is a link to a file that does not exist" if os.path.islink(path) else "no such file"
        raise UnreadableVideo(path, reason, hopeless=True) from error
    except ValueError as error:  # a null character in the name
        raise UnreadableVideo(path, "no such file", hopeless=True) from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_kind, words in KINDS if is_kind(found.st_mode)), "is not a file")
        raise UnreadableVideo(path, kind, hopeless=True)
    if found.st_size == 0:
        raise UnreadableVideo(path, "file is empty (0 bytes)", hopeless=True)


def name_content(media: str | bytes, wanted: str = "a video") -> str | None:
    """Return what an undecodable file holds instead, if its first bytes show it."""
    try:
        if isinstance(media, str):
            with open(media, "rb") as file:
                head = file.read(4096)
        else:
            head = media[:4096]
    except OSError:
        return None
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not the {wanted.split()[-1]}; run git lfs pull"
    if head and not head.strip(b"\0"):
        return "holds only zeros at its start; the copy or download did not finish"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = (words for magic, words in CONTENTS if start.startswith(magic))
    return next((f"is {words}, not {wanted}" for words in kinds), None)

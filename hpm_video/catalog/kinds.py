"""Kinds of files, by first bytes and ending, and what to do with them; for messages only."""

import contextlib
from pathlib import Path

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES

NUM_BYTES = 600
MAGIC = (  # (first bytes, what the file is)
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\xff\xff\xff\xff", "an Arrow table"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB", "a MATLAB file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"(\xb5/\xfd", "a zstd archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"%PDF", "a PDF document"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"version https://git-lfs", "a git-lfs pointer"),
)
ENDINGS = {  # a more exact word, or one for a file without first bytes of its own
    ".xlsx": "an Excel workbook",
    ".xls": "an Excel workbook",
    ".ods": "a spreadsheet",
    ".npz": "a NumPy archive",
    ".npy": "a NumPy array",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".pth": "a file of PyTorch",
    ".pt": "a file of PyTorch",
    ".parquet": "a Parquet table",
    ".arrow": "an Arrow table",
    ".feather": "an Arrow table",
    ".mat": "a MATLAB file",
    ".zip": "a zip archive",
    ".rar": "a rar archive",
    ".7z": "a 7z archive",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".gz": "a gzip archive",
    ".bz2": "a bzip2 archive",
    ".xz": "an xz archive",
    ".zst": "a zstd archive",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
    ".html": "a web page",
    ".xml": "an XML file",
}
LIST_ENDINGS = (".csv", ".tsv", ".txt", ".lst", ".list", ".json", ".jsonl", ".ndjson")
LIST_HINT = "Save it as csv with a header (path,label,split), UTF-8"


def kind_of_file(file: Path) -> str:
    """Return what a file is ('a Parquet table', 'a video', ...), or '' if it may be text."""
    start = b""
    with contextlib.suppress(OSError):
        if file.is_file():  # a FIFO would never end
            with file.open("rb") as stream:
                start = stream.read(NUM_BYTES)
    return kind_of_content(file.name, start)


def kind_of_content(name: str, start: bytes) -> str:
    """Return the kind of a file of this name that begins with these bytes; see `kind_of_file`."""
    found = next((kind for magic, kind in MAGIC if start.startswith(magic)), "")
    suffix = Path(name).suffix.lower()
    if found and suffix not in (".xlsx", ".npz", ".pth", ".pt"):
        return "a tar archive" if Path(name).stem.lower().endswith(".tar") else found
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return "a web page or XML"
    if suffix in SUFFIXES:
        return "a video"
    if suffix in IMAGE_SUFFIXES:
        return "an image"
    text = bool(start) and b"\0" not in start
    if suffix in (".yaml", ".yml") or not text:
        return ENDINGS.get(suffix, "" if text else "a binary file")
    return ""


def hint_for_list(kind: str) -> str:
    """Return how a list of that kind becomes one that can be read."""
    if kind == "a git-lfs pointer":
        return "Fetch the file itself: git lfs pull"
    if kind == "UTF-16 text":
        return "Save it as UTF-8"
    if "archive" in kind:
        return f"Unpack it, or {LIST_HINT[0].lower()}{LIST_HINT[1:]}"
    if kind in ("a video", "an image"):
        return "Give a list of such files"
    if "web page" in kind:
        return "Download the file itself"
    return LIST_HINT

"""Tell what kind of file the user gave, from its first bytes and its suffix. Used only for messages."""

import contextlib
from pathlib import Path

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES

NUM_BYTES = 600
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
KINDS: tuple[tuple[str, tuple[bytes, ...], str], ...] = (  # (kind, possible first bytes, suffixes)
    ("a Parquet table", (b"PAR1",), ".parquet"),
    ("an Arrow table", (b"ARROW1", b"\xff\xff\xff\xff"), ".arrow .feather"),
    ("an Excel workbook", (b"\xd0\xcf\x11\xe0",), ".xlsx .xls"),
    ("a spreadsheet", (), ".ods"),
    ("a pickle", PICKLES, ".pkl .pickle"),
    ("a file of PyTorch", (), ".pth .pt"),
    ("a NumPy array", (b"\x93NUMPY",), ".npy"),
    ("a NumPy archive", (), ".npz"),
    ("an HDF5 file", (b"\x89HDF",), ""),
    ("a MATLAB file", (b"MATLAB",), ".mat"),
    ("an SQLite database", (b"SQLite format 3",), ""),
    ("a zip archive", (b"PK\x03\x04",), ".zip"),
    ("a tar archive", (), ".tar .tgz"),
    ("a gzip archive", (b"\x1f\x8b",), ".gz"),
    ("a bzip2 archive", (b"BZh",), ".bz2"),
    ("an xz archive", (b"\xfd7zXZ",), ".xz"),
    ("a zstd archive", (b"(\xb5/\xfd",), ".zst"),
    ("a 7z archive", (b"7z\xbc\xaf",), ".7z"),
    ("a rar archive", (b"Rar!",), ".rar"),
    ("a PDF document", (b"%PDF",), ""),
    ("UTF-16 text", (b"\xff\xfe", b"\xfe\xff"), ""),
    ("a git-lfs pointer", (b"version https://git-lfs",), ""),
    ("a YAML file", (), ".yaml .yml"),
    ("a web page", (), ".html"),
    ("an XML file", (), ".xml"),
)
SUFFIX_KNOWS_BETTER = (".xlsx", ".npz", ".pth", ".pt")  # their first bytes are those of a zip archive or a pickle
LIST_ENDINGS = (".csv", ".tsv", ".txt", ".lst", ".list", ".json", ".jsonl", ".ndjson")
LIST_HINT = "Save it as csv with a header (path,label,split), UTF-8"


def kind_of_file(file: Path) -> str:
    """Return what a file is ('a Parquet table', 'a video', ...), or '' if it can be a text file."""
    start = b""
    with contextlib.suppress(OSError):
        if file.is_file():  # reading a FIFO would never end
            with file.open("rb") as stream:
                start = stream.read(NUM_BYTES)
    return kind_of_content(file.name, start)


def kind_of_content(name: str, start: bytes) -> str:
    """Return the kind of a file with this name and these first bytes; see `kind_of_file`."""
    path = Path(name)
    suffix = path.suffix.lower()
    by_content = next((kind for kind, magic, _ in KINDS if start.startswith(magic)), "")
    if by_content and suffix not in SUFFIX_KNOWS_BETTER:
        return "a tar archive" if path.stem.lower().endswith(".tar") else by_content
    if start[257:262] == b"ustar":
        return "a tar archive"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return "a web page or XML"
    if suffix in SUFFIXES:
        return "a video"
    if suffix in IMAGE_SUFFIXES:
        return "an image"
    is_text = bool(start) and b"\0" not in start
    if is_text and suffix not in (".yaml", ".yml"):
        return ""
    by_suffix = next((kind for kind, _, suffixes in KINDS if suffix in suffixes.split()), "")
    return by_suffix or ("" if is_text else "a binary file")


def hint_for_list(kind: str) -> str:
    """Return how to turn a file of this kind into a list that can be read."""
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

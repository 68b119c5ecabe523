"""A reader and a data set are one new file and one row each: traced in a copy of the library that gains both."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import hpm_video

READER = '''
"""Reads a file of one byte a frame."""

import numpy as np

from hpm_video.data.readers.rates import choose_at


def load():
    """Nothing to import."""


def read(media, choose, fps=None, limits=None):
    """Return frames of 8 x 8 px."""
    content = np.frombuffer(media if isinstance(media, bytes) else open(media, "rb").read(), np.uint8)
    wanted = choose_at(choose, np.arange(len(content)), fps, limits, "bytes")
    return np.broadcast_to(content[wanted][:, None, None, None], (len(wanted), 8, 8, 3))
'''
DATA_SET = '''
"""A set with a list of its own."""

from hpm_video.catalog.rows import Found, Row

ANNOTATIONS, PREFERRED_SUFFIX = ["pond.txt"], ""


def find_annotations(root, given=None):
    folder = given or root
    return folder if (folder / "pond.txt").is_file() else None


def read_split(root, annotations, split):
    lines = [line.split() for line in (annotations / "pond.txt").read_text().splitlines()]
    rows = [Row(path, int(label)) for part, path, label in lines if part == split]
    return Found({split: rows} if rows else {}, ["duck", "goose"], {})
'''
ROWS = {
    "config/readers.py": (
        "    decord=Reader(",
        '    bytes=Reader(help="bytes", implementation="hpm_video.data.readers.bytes", library="json"),\n',
    ),
    "config/data_sets.py": (
        "    kinetics=DataSet(",
        '    pond=DataSet(help="Pond", implementation="hpm_video.catalog.pond", protocol=SamplingProtocol("dense", 3, 1), '
        'left_right=True, layout="pond.txt"),\n',
    ),
}
PROGRAM = """
import contextlib, io, sys
from pathlib import Path

import numpy as np

from hpm_video.cli import main
from hpm_video.config import DataConfig, load_config
from hpm_video.errors import UserError

told = io.StringIO()
with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
    main(["pretrain", "--help"])
text = told.getvalue()
assert "|bytes|" in text and "|pond|" in text and "Pond's pond.txt" in text, text
assert not {"torch", "av", "hpm_video.data.readers.bytes", "hpm_video.catalog.pond"} & set(sys.modules)
for key, name in (("data.reader", "bytes"), ("data.format", "pond")):
    try:
        load_config(None, ["data.root=x", "train.output=x", f"{key}=wrong"])
    except UserError as error:
        assert f"{key}: 'wrong'; expected one of" in str(error) and name in str(error), error

from hpm_video.data.readers.read import read_frames
from hpm_video.data.source import open_source

root = Path(sys.argv[1])
frames = read_frames(root / "b.mp4", lambda count: np.array([0, count - 1]), "bytes")
assert frames.shape == (2, 8, 8, 3) and frames[:, 0, 0, 0].tolist() == [1, 4]
source = open_source(DataConfig(root=str(root)), "train")
assert (source.set_name, source.left_right, tuple(source.protocol)) == ("pond", True, ("dense", 3, 1))
assert (source.name(0), source.labels, source.classes) == ("b.mp4", [1], ["duck", "goose"])
assert open_source(DataConfig(root=str(root), format="pond"), "validation") is None
try:
    open_source(DataConfig(root=str(root.parent), format="pond"), "train")
except UserError as error:
    assert "does not hold Pond's pond.txt" in str(error)

from hpm_video.profiling.environment import list_checks
from hpm_video.preprocess.transcode import _annotation_files

assert "bytes" in [check.name for check in list_checks(None, 1, root)]
assert list(_annotation_files(root)) == ["pond.txt"]
"""


def test_a_reader_and_a_data_set_are_one_file_and_one_row(tmp_path) -> None:
    library = tmp_path / "copy" / "hpm_video"
    shutil.copytree(Path(hpm_video.__file__).parent, library, ignore=shutil.ignore_patterns("__pycache__"))
    (library / "data" / "readers" / "bytes.py").write_text(READER)
    (library / "catalog" / "pond.py").write_text(DATA_SET)
    for name, (place, row) in ROWS.items():
        text = (library / name).read_text()
        assert text.count(place) == 1
        (library / name).write_text(text.replace(place, row + place))
    root = tmp_path / "set"
    root.mkdir()
    (root / "b.mp4").write_bytes(bytes([1, 2, 3, 4]))
    (root / "pond.txt").write_text("train b.mp4 1\n")
    command = [sys.executable, "-c", PROGRAM, str(root)]
    environment = os.environ | {"PYTHONPATH": str(library.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr

"""Any bytes as a list, a manifest or SSv2's files give rows or a UserError, never another exception."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpm_video.catalog import ssv2
from hpm_video.catalog.path_lists import read_lists
from hpm_video.config import DataConfig
from hpm_video.data.manifest import FORMAT, Manifest, read_manifest, write_manifest
from hpm_video.data.source import open_source
from hpm_video.types import UserError

BOUNDED = settings(
    derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
WORDS = "path label split class file_name video id start end total group a.mp4 b x/1 x 0 1 -1 3.0 val train jump é 打 . ..".split()
CELLS = st.one_of(st.sampled_from([*WORDS, "", "9" * 30, "a" * 300, '"', "\0", "../a"]), st.text(max_size=8))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CELLS)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(CELLS, v, max_size=3), max_leaves=3)


@st.composite
def tables(draw) -> bytes:
    """Something like a list: lines of cells with a delimiter, now and then broken."""
    delimiter = draw(st.sampled_from([",", ";", "|", "\t", " ", ", "]))
    rows = draw(st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=6))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(delimiter.join(row) for row in rows)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"])) + text.encode("utf-8", "replace")


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()  # NaN, Infinity and lone surrogates among them


RECORDS = st.lists(st.dictionaries(st.sampled_from(WORDS), VALUES, min_size=1, max_size=4), max_size=4)
LISTS = st.one_of(st.binary(max_size=80), tables(), VALUES.map(as_json), RECORDS.map(as_json))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    (root / "m").mkdir()
    for name in ("a.mp4", "b.mp4", "x/1.jpg", "x/2.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@BOUNDED
@given(
    LISTS,
    st.sampled_from(["list.csv", "list.txt", "list.json", "list.jsonl"]),
    st.sampled_from([(), ("path", "label")]),
)
def test_any_bytes_as_a_list(root, content, name, columns) -> None:
    (root / name).write_bytes(content)
    try:
        found = read_lists(root, {"train": root / name}, columns)
    except UserError:
        return
    rows = [row for part in found.splits.values() for row in part]
    assert all((root / row.path).exists() and -1 <= row.label < max(len(found.classes), 1) for row in rows)
    out = write_manifest(root / "manifest", "csv", root, found.splits, found.classes)
    for split, part in found.splits.items():
        again = read_manifest(out, split)
        assert again is not None and again.paths == [row.path for row in part]
        assert again.labels == [row.label for row in part] and again.classes == found.classes


HEADERS = st.fixed_dictionaries(
    {"format": st.just(FORMAT)},
    optional={
        "name": st.just("n") | VALUES,
        "root": st.just("..") | VALUES,
        "classes": st.just(["x", "y"]) | VALUES,
        "left_right": VALUES,
        "splits": st.one_of(
            st.just({"train": {"file": "train.csv", "rows": 1}}),
            st.fixed_dictionaries({"train": st.fixed_dictionaries({"file": CELLS, "rows": VALUES})}),
            VALUES,
        ),
    },
)
FULL = {"format": FORMAT, "name": "n", "root": "..", "classes": ["x", "y"]}
ROWS = st.lists(st.tuples(CELLS, *[SCALARS.map(str)] * 7), max_size=3)


def check_manifest(folder: Path) -> None:
    try:
        found = open_source(DataConfig(root=str(folder)), "train")
    except UserError:
        return
    assert found is None or isinstance(found, Manifest)
    for row in range(len(found or [])):
        assert found.item(row).label < max(len(found.classes), 2**31)


@BOUNDED
@given(st.one_of(HEADERS.map(as_json), VALUES.map(as_json), st.binary(max_size=60)))
def test_any_header_of_a_manifest(root, content) -> None:
    out = root / "m"
    (out / "manifest.json").write_bytes(content)
    (out / "train.csv").write_text("path,label\na.mp4,0\n")
    check_manifest(out)


@BOUNDED
@given(st.one_of(st.binary(max_size=80), tables(), ROWS), st.sampled_from(["train.csv", "train.parquet"]))
def test_any_table_of_a_manifest(root, content, name) -> None:
    out = root / "m"
    num_rows = 1
    if isinstance(content, list):
        num_rows, head = len(content), "path,label,frames,fps,width,height,group,first_frame"
        lines = [head, *(",".join(cell.replace(",", "") for cell in row) for row in content)]
        content = "\n".join(lines).encode("utf-8", "replace")
    (out / name).write_bytes(content)
    header = FULL | {"splits": {"train": {"file": name, "rows": num_rows}}}
    (out / "manifest.json").write_text(json.dumps(header))
    check_manifest(out)


@BOUNDED
@given(
    st.one_of(st.dictionaries(CELLS, SCALARS, max_size=3), VALUES).map(as_json) | st.binary(max_size=40),
    st.one_of(st.lists(st.dictionaries(st.sampled_from(["id", "template", "label"]), VALUES)), VALUES).map(as_json),
)
def test_any_files_of_ssv2(root, labels, train) -> None:
    (root / "labels.json").write_bytes(labels)
    (root / "train.json").write_bytes(train)
    try:
        annotations = ssv2.find_annotations(root)
        assert annotations is not None
        ssv2.read_split(root, annotations, "train")
    except UserError:
        pass

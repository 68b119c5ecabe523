"""The fast csv reader reads what csv.reader, int and float read, or leaves the file to them; faults name their line."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from hpm_video.catalog.rows import Row
from hpm_video.data import manifest_files
from hpm_video.data.manifest_files import OddTable, read_table
from hpm_video.data.manifest_table import SCHEMA, table_of
from hpm_video.errors import UserError

HEAD = "path,label,frames,fps,width,height,group,first_frame"
CELLS = st.sampled_from(
    [
        "a.mp4",
        "é b",
        "1",
        "0",
        "-1",
        "25.0",
        "1e3",
        "",
        " 3",
        "007",
        "0x1F",
        "1_0",
        "+5",
        "9" * 12,
        "1.",
        "nan",
        "inf",
        "٣",
    ]
    + ['"q"', '"a,b"', '"a""b"', 'a"b', '"a"b', '"two\nlines"', '"open', "\0", "'", "\ufeff", "a\rb", "--1"]
)
TABLES = st.tuples(
    st.sampled_from([HEAD, "path,label", "path", "label,path", "path,fps", "path,group,frames"]),
    st.lists(st.lists(CELLS, min_size=1, max_size=8), max_size=3),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\n", "\n\n"]),
)


def read_by(rows, file: Path) -> tuple[str, object]:
    try:
        return "rows", manifest_files._checked(rows(file), file).collect().to_pylist()
    except UserError as error:
        return "fault", str(error)
    except OddTable:
        return "odd", None


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("table") / "train.csv"


def check_same(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    fast, plain = read_by(manifest_files._csv_rows, file), read_by(manifest_files._plain_csv_rows, file)
    assert fast[0] == "odd" or repr(fast) == repr(plain)
    return fast[0]


@settings(derandomize=True, max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(TABLES)
def test_both_readers_agree(file, table) -> None:
    head, rows, end, last = table
    width = head.count(",") + 1
    lines = [head, *(",".join((row * 8)[:width]) for row in rows)]
    check_same(file, (end.join(lines) + last).encode())


@pytest.mark.parametrize("line", ["a.mp4,1,250,25.0,320,240,g,0", '"a,""b"".mp4",,,,,,,', "é/ 打.mp4,-1,,1e3,,,' ,7"])
def test_usual_lines_are_read_fast(file, line) -> None:
    assert check_same(file, f"{HEAD}\n{line}\n".encode()) == "rows"
    assert check_same(file, f"\ufeff{HEAD}\r\n{line}\r\n".encode()) == "rows"
    assert check_same(file, f"{HEAD}\n{line}\n{line},1\n".encode()) == "odd"


def test_a_column_that_is_absent_takes_no_room(file) -> None:
    file.write_text("path,label\na.mp4,1\n")
    table = read_table(file, 2)
    assert table.to_pylist() == [Row("a.mp4", 1)._asdict()] and table.schema.field("fps").type == pa.null()


def test_faults_behind_the_first_batch_name_their_line(file, monkeypatch) -> None:
    monkeypatch.setattr(manifest_files, "BLOCK_BYTES", 64)
    lines = [f"{n}.mp4,{n % 2},5" for n in range(100)]
    for number, cell, words in (
        (60, "-5", "line 62: a negative frames"),
        (70, "x", "line 72: frames 'x'; expected a n"),
    ):
        changed = [*lines[:number], f"{number}.mp4,0,{cell}", *lines[number + 1 :]]
        file.write_text("\n".join(["path,label,frames", *changed]))
        with pytest.raises(UserError, match=words):
            read_table(file, 2)
    file.write_text("\n".join(["path,label,frames", *lines]))
    with pytest.raises(UserError, match="line 3: label 1; expected -1 to 0"):
        read_table(file, 1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_large_file_is_read_once(tmp_path, monkeypatch, kind) -> None:
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest_files, "LEAST_CACHED_BYTES", 1)
    file, rows = tmp_path / f"train.{kind}", [Row("a.mp4", 1, fps=25.0), Row("b.mp4", 0, group="g")]
    if kind == "csv":
        file.write_text(f"{HEAD}\na.mp4,1,,25.0,,,,0\nb.mp4,0,,,,,g,0\n")
    else:
        parquet.write_table(table_of(rows), file)
    first = read_table(file, 2)
    assert (
        first.to_pylist() == [row._asdict() for row in rows] and len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    )
    with monkeypatch.context() as patch:
        patch.setattr(manifest_files, "_csv_rows", None)
        patch.setattr(manifest_files, "_parquet_rows", None)
        assert read_table(file, 2) == first
        with pytest.raises(UserError, match="line 2: label 1; expected -1 to 0"):
            read_table(file, 1)
    if kind == "csv":
        file.write_text("path,label\nother.mp4,0\n")
        assert read_table(file, 2)["path"].to_pylist() == ["other.mp4"]


def test_unknown_columns_of_parquet_are_not_read(tmp_path) -> None:
    parquet.write_table(table_of([Row("a.mp4", 1, width=3)]), tmp_path / "train.parquet")
    table = read_table(tmp_path / "train.parquet", 2)
    assert [f.name for f in table.schema if f.type == pa.null()] == ["frames", "fps", "height", "start_s", "stop_s"]
    parquet.write_table(table_of([]).drop_columns(["fps"]), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="not a manifest table .*fps"):
        read_table(tmp_path / "train.parquet", 2)
    assert SCHEMA.names == list(Row._fields)

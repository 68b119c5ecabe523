"""Columns, digests and kinds equal what Python objects of all rows give, in tables of one part and of many."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpm_video.catalog.roots import kind_of_names
from hpm_video.catalog.rows import Row
from hpm_video.data import table_columns
from hpm_video.data.manifest_table import table_of
from hpm_video.data.table_columns import Column, digest_rows, feed_columns, kind_of_column, take_rows, without_rows

NAMES = st.sampled_from(
    ["a.mp4", "B.WEBM", "c.jpg", "é.mkv", "it's.mp4", "a\"'b.mp4", "a\\b.mov", "\n.avi", "\xa0.ts", "frames"]
)
CELLS = st.tuples(NAMES, st.integers(-1, 3), st.none() | st.just(29.97), st.integers(0, 9))
ROWS = st.lists(CELLS.map(lambda cells: Row(cells[0], cells[1], fps=cells[2], first_frame=cells[3])), max_size=9)
MANY = settings(
    derandomize=True, max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch) -> None:
    monkeypatch.setattr(table_columns, "ROWS_AT_ONCE", 3)


def cut(rows: list[Row]) -> pa.Table:
    table = table_of(rows)
    return pa.concat_tables([table.slice(0, 1), table.slice(1, 4), table.slice(5)])


@MANY
@given(ROWS)
def test_digests(rows) -> None:
    lines = "".join(f"{(row.path, row.label, row.first_frame)!r}\n" for row in rows)
    found = digest_rows(cut(rows).select(["path", "label", "first_frame"]))
    assert found == hashlib.sha256(lines.encode()).hexdigest()[:16]
    lines = "".join(f"{(row.path, row.fps, row.width)!r}\n" for row in rows)
    found = digest_rows(cut(rows).select(["path", "fps", "width"]))
    assert found == hashlib.sha256(lines.encode()).hexdigest()[:16]
    feed_columns(fed := hashlib.sha256(), cut(rows))
    assert fed.digest() == hashlib.sha256(json.dumps(table_of(rows).to_pydict()).encode()).digest()


def test_the_fingerprint_of_stored_runs() -> None:
    rows = [Row(f"videos/{n:03d}.mp4", n % 3, first_frame=n % 2) for n in range(10)]
    assert digest_rows(table_of(rows).select(["path", "label", "first_frame"])) == "ab27a340dfeda7cd"


@MANY
@given(ROWS)
def test_kinds(rows) -> None:
    assert kind_of_column(cut(rows)["path"]) == kind_of_names([row.path for row in rows])
    same = [row for row in rows if row.path.endswith("mp4")]
    assert kind_of_column(cut(same)["path"]) == "videos"


@MANY
@given(ROWS, st.data())
def test_rows_taken_and_left_out(rows, data) -> None:
    table, rows = cut(rows), table_of(rows).to_pylist()
    some = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    assert take_rows(table, some).to_pylist() == [rows[place] for place in some]
    left = [row for place, row in enumerate(rows) if place not in some]
    for most in (0, 5000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table_columns, "MAX_PIECES", most)
            assert without_rows(table, np.unique(np.array(some, np.int64))).to_pylist() == left


def test_a_column_reads_like_a_list() -> None:
    labels = Column(cut([Row("a", n) for n in range(8)])["label"])
    assert labels == list(range(8)) and labels != [*range(7), 9] and labels[-1] == 7 and labels[2:4] == [2, 3]
    assert len(labels) == 8 and labels.index(5) == 5 and 8 not in labels and max(labels) == 7
    assert np.array(labels).tolist() == list(range(8)) and repr(labels) == repr(list(range(8)))

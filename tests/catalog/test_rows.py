"""How the entries of annotation files become rows."""

import pytest

from hpm_video.catalog.rows import Entry, Row, collect_rows, find_folder
from hpm_video.types import UserError


def test_entries_become_rows_and_missing_files_are_named() -> None:
    entries = {"train": [Entry("l.txt, line 1", "b.mp4", "b", "run", "g"), Entry("l.txt, line 2", None, "c", "jump")]}
    found = collect_rows(entries, None)
    assert found.classes == ["jump", "run"] and found.splits == {"train": [Row("b.mp4", 1, group="g")]}
    assert found.missing == {"train": ["l.txt, line 2: c"]}
    with pytest.raises(UserError, match="line 1: class 'run'; expected one of 1: jump"):
        collect_rows(entries, ["jump"])


def test_the_folder_of_a_list(tmp_path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "list.txt").write_text("x")
    assert find_folder(tmp_path, None, ("a", "b"), "*.txt") == tmp_path / "b"
    with pytest.raises(UserError, match="list.txt is not in .*a or .*c; expected it there"):
        find_folder(tmp_path, None, ("a", "c"), "list.txt")

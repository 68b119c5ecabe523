"""Text that a user gives."""

from hpm_video.catalog.texts import read_lines


def test_lines_are_numbered_from_one_and_blank_ones_count(tmp_path) -> None:
    (tmp_path / "x").write_text("a\n\n  \nb\u2028c\n", encoding="utf-8")
    assert read_lines(tmp_path / "x", "") == [(1, "a"), (4, "b\u2028c")]

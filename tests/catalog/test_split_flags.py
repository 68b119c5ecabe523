"""Columns of yes and no that say which split a row is in."""

import pytest

from hpm_video.catalog.list_table import Table
from hpm_video.catalog.path_lists import read_lists
from hpm_video.catalog.split_flags import join_flags
from hpm_video.types import UserError


def splits(names: str, *rows: str) -> list[str]:
    table = Table(tuple(names.split(",")), "l, line 1", [(f"l, line {n}", r.split(",")) for n, r in enumerate(rows, 2)])
    joined, used = join_flags(table)
    assert used and joined.names[-1] == "split" and not set(used) & set(joined.names)
    return [row[-1] for _, row in joined.rows]


@pytest.mark.parametrize(
    ("names", "rows", "expected"),
    [
        ("path,is_train", ("a,1", "b,0"), ["train", "validation"]),
        ("path,Train,label", ("a,True,x", "b,False,y"), ["train", "validation"]),
        ("path,is_test", ("a,no", "b,yes"), ["train", "test"]),
        ("is_val,path,is_train", ("0,a,1", "1,b,0", "0,c,0"), ["train", "validation", "test"]),
        ("path,train,val,test", ("a,1,0,0", "b,0,,1.0"), ["train", "test"]),
    ],
)
def test_the_split_of_each_row(names, rows, expected) -> None:
    assert splits(names, *rows) == expected


@pytest.mark.parametrize("row", ["a,1,1,0", "a,0,0,0"])
def test_a_row_of_two_splits_or_of_none(row) -> None:
    with pytest.raises(
        UserError, match="l, line 2: (both of train and val|none of train and val and test); expected one"
    ):
        splits("path,train,val,test", row)


def test_a_list_with_such_a_column_is_not_trained_on_whole(tmp_path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    file = tmp_path / "list.csv"
    file.write_text("path,label,is_train\na.mp4,x,1\nb.mp4,y,0\n")
    found = read_lists(tmp_path, {"train": file})
    assert {split: [row.path for row in rows] for split, rows in found.splits.items()} == {
        "train": ["a.mp4"],
        "validation": ["b.mp4"],
    }
    assert found.notes == ("read as the split of each row: is_train",)


@pytest.mark.parametrize(
    "text", ["path,train\na.mp4,red\n", "path,split,is_train\na.mp4,train,0\n", "path,valid\na.mp4,1\n"]
)
def test_other_columns_stay(tmp_path, text) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "list.csv").write_text(text)
    assert list(read_lists(tmp_path, {"train": tmp_path / "list.csv"}).splits) == ["train"]

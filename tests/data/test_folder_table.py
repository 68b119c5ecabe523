"""A long listing is kept, and no change of a folder goes unseen."""

import os

import pytest

from hpm_video.data import folder_table
from hpm_video.data.folder_table import read_folder

NAMES = ["a/1.mp4", "a/b/2.MP4", "ü 3.mp4"]


@pytest.fixture()
def root(tmp_path, monkeypatch):
    """Make a folder of three videos, still for long, and have such a listing kept."""
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_table, "LEAST_CACHED", 3)
    root = tmp_path / "root"
    for name in [*NAMES, "notes.txt", ".hidden.mp4", "z/notes.txt"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    rest(root)
    return root


def rest(root) -> None:
    for folder, _, _ in os.walk(root):
        os.utime(folder, (10**9, 10**9))


def listed(root, part: str = ".") -> list[str]:
    return read_folder(root, part, (".mp4",))["path"].to_pylist()


def count_walks(monkeypatch) -> list[None]:
    walks: list[None] = []
    before = folder_table.walk_folders
    monkeypatch.setattr(folder_table, "walk_folders", lambda root: (walks.append(None), before(root))[1])
    return walks


def test_a_listing_is_kept(root, monkeypatch) -> None:
    walks = count_walks(monkeypatch)
    first = read_folder(root, ".", (".mp4",))
    assert first["path"].to_pylist() == NAMES and set(first["label"].to_pylist()) == {-1} and len(walks) == 1
    assert read_folder(root, ".", (".mp4",)) == first and len(walks) == 1
    assert first.schema.metadata is None and first["group"].to_pylist() == [""] * 3


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "deep", "link"])
def test_a_change_is_seen(root, change, tmp_path) -> None:
    if change == "link":
        (tmp_path / "other").mkdir()
        (root / "link").symlink_to(tmp_path / "other")
        rest(root)
        rest(tmp_path / "other")
    before = listed(root)
    if change == "added":
        (root / "z" / "4.mp4").write_bytes(b"")
    elif change == "removed":
        (root / "a" / "1.mp4").unlink()
    elif change == "renamed":
        (root / "a").rename(root / "c")
    elif change == "deep":
        (root / "a" / "b" / "c").mkdir()
        (root / "a" / "b" / "c" / "5.mp4").write_bytes(b"")
    else:
        (tmp_path / "other" / "6.mp4").write_bytes(b"")
    now = listed(root)
    assert now != before and now == sorted(now) and all((root / name).is_file() for name in now)


def test_a_folder_that_changes_now_is_not_kept(root, monkeypatch) -> None:
    (root / "z" / "4.mp4").write_bytes(b"")
    listed(root)
    assert not list((root.parent / "cache").rglob("*.arrow"))


def test_another_process_made_the_listing(root, monkeypatch) -> None:
    listed(root)
    answers = iter([None])  # not there at first, and there under the lock
    before = folder_table.map_entry
    monkeypatch.setattr(folder_table, "map_entry", lambda entry: next(answers, before(entry)))
    monkeypatch.setattr(folder_table, "keep_entry", None)
    assert listed(root) == NAMES


def test_a_part_of_a_folder(root, monkeypatch) -> None:
    monkeypatch.setattr(folder_table, "LEAST_CACHED", 2)
    walks = count_walks(monkeypatch)
    assert listed(root, "a") == listed(root, "a") == NAMES[:2] and len(walks) == 1
    assert listed(root / "a") == ["1.mp4", "b/2.MP4"]

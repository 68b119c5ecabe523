"""Tables in the cache folder: written once, mapped by the others, and never needed."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from hpm_video.data import row_cache
from hpm_video.data.row_cache import Rows, cache_folder, find_entry, map_entry, share
from hpm_video.errors import UserError
from hpm_video.files import draft_of

TABLE = pa.table({"path": ["a", "b"], "label": [1, 2]})


@pytest.fixture()
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read() -> Rows:
    return Rows(TABLE.schema, TABLE.to_batches())


def refuse() -> Rows:
    raise AssertionError("read again")


def test_rows_are_read_once(cache) -> None:
    entry = find_entry("a", 1)
    assert share(entry, read) == TABLE and share(entry, refuse) == TABLE
    assert [file.name for file in cache.rglob("*.arrow")] == [entry.name] and not list(cache.rglob(".*"))
    assert find_entry("a", 2) != entry


def test_the_folder_of_the_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("HPM_VIDEO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("rows") == tmp_path / "hpm_video" / "rows"
    monkeypatch.setenv("HPM_VIDEO_CACHE", "")
    assert cache_folder("rows") is None and find_entry("a") is None and share(None, read) == TABLE


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "file"))
    assert share(find_entry("a"), read) == TABLE
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(pa, "OSFile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert share(find_entry("a"), read) == TABLE and not list((tmp_path / "full").glob("*.arrow"))


def test_a_damaged_entry_is_written_again(cache) -> None:
    entry = find_entry("a")
    share(entry, read)
    entry.write_bytes(entry.read_bytes()[:100])
    assert map_entry(entry) is None and share(entry, read) == TABLE and share(entry, refuse) == TABLE


def test_a_fault_of_the_rows_leaves_nothing(cache) -> None:
    def fail():
        yield from TABLE.to_batches()
        raise UserError("line 2: no path")

    with pytest.raises(UserError, match="line 2: no path"):
        share(find_entry("a"), lambda: Rows(TABLE.schema, fail()))
    assert not list(cache.rglob("*.arrow")) and not list(cache.rglob(".*"))


def test_entries_that_nothing_opens_are_deleted(cache) -> None:
    old, used, foreign = find_entry("old"), find_entry("used"), cache / "mine.arrow"
    share(old, read)
    share(used, read)
    foreign.write_text("x")
    before = time.time() - 2 * row_cache.UNUSED_S
    for file in (old, used, foreign):
        os.utime(file, (before, before))
    share(used, refuse)
    share(find_entry("new"), read)
    assert not old.exists() and used.exists() and foreign.exists()


def test_of_several_at_once_one_reads(cache) -> None:
    reads: list[int] = []

    def read_slowly() -> Rows:
        reads.append(1)
        time.sleep(0.1)
        return read()

    entry = find_entry("a")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: share(entry, read_slowly), range(4)))
    assert found == [TABLE] * 4 and len(reads) == 1


def test_the_draft_of_a_killed_process_goes(cache) -> None:
    share(find_entry("a"), read)
    draft = draft_of(find_entry("b"))
    left = draft.with_name(draft.name.replace(f"-{os.getpid()}.", "-999999999."))
    left.write_text("half")
    share(find_entry("c"), read)
    assert not left.exists()

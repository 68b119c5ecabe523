"""Long films: walked through once; then a clip reads and decodes about as much as one of a short file."""

import os
from fractions import Fraction
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from hpm_video.data.readers import index
from hpm_video.data.readers.packets import FilmPackets, Packets
from hpm_video.data.readers.read import read_frames
from hpm_video.item import Span
from hpm_video.types import UnreadableVideo

spec = spec_from_file_location("bench_film", Path(__file__).parents[3] / "benchmarks" / "bench_film.py")
bench = module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> tuple[Path, Path]:
    """Return a film of 10 s and one of 3 minutes, 64 px."""
    return bench.write_films(tmp_path_factory.mktemp("films"), minutes=3, size=(64, 64), grain=70)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Let no test see the user's cache, or that of another one."""
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "LEAST_BYTES", 1_000_000)
    monkeypatch.setattr("hpm_video.data.readers.packets.MAX_KEPT_PACKETS", 1000)
    index.forget_loaded()
    yield tmp_path / "cache"
    index.forget_loaded()


def kept_files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def read(file: Path, numbers: list[int]) -> np.ndarray:
    return read_frames(file, lambda _: np.array(numbers), "pyav")


def test_a_film_is_walked_through_once(films, own_cache, monkeypatch) -> None:
    _, film = films
    first = read(film, [3000, 3060])
    (kept,) = kept_files(own_cache)
    assert kept.stat().st_size < 20_000
    monkeypatch.setattr(Packets, "of", lambda *_: pytest.fail("walked through again"))
    assert np.array_equal(read(film, [3000, 3060]), first)
    index.forget_loaded()  # as in another process
    assert np.array_equal(read(film, [3000, 3060]), first)
    kept.unlink()
    assert np.array_equal(read(film, [3000, 3060]), first)  # from memory


def test_a_clip_of_a_film_reads_and_decodes_about_as_much_as_one_of_a_short_file(films, monkeypatch) -> None:
    """Counted, not timed. The best case for the short file: its clip begins at the same distance from a key frame."""
    seen: list[int] = []

    def count(self: FilmPackets, key: int):
        for packet in from_key(self, key):
            seen.append(1)
            yield packet

    from_key = FilmPackets.from_key
    read(films[1], [0])
    monkeypatch.setattr(FilmPackets, "from_key", count)
    costs = []
    for film, first in zip(films, (100, 3100), strict=True):
        seen.clear()
        before = bench.count_read() if os.path.exists("/proc/self/io") else 0
        read(film, list(range(first, first + 64, 4)))
        costs.append((len(seen), bench.count_read() - before if before else 0))
    (short, short_bytes), (long, long_bytes) = costs
    assert 0 < long <= short + 2 and long_bytes <= 2 * short_bytes
    assert not before or long_bytes < films[1].stat().st_size / 5


@pytest.mark.slow
def test_a_clip_of_half_an_hour_costs_at_most_twice_one_of_ten_seconds(tmp_path) -> None:
    short, long = bench.write_films(tmp_path, minutes=30)
    found = bench.compare(short, long, clips=9)
    for case in ("long, index from the disk", "long, index in memory"):
        assert found[case]["x_cpu"] <= 2 and found[case]["x_bytes"] <= 2


def test_another_file_of_that_name_gets_another_index(films, own_cache, tmp_path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(films[1].read_bytes())
    before = read(film, [4000])
    stamp = os.stat(film).st_mtime_ns + 10**9
    film.write_bytes(films[0].read_bytes())
    os.utime(film, ns=(stamp, stamp))
    assert index.find_index(str(film)) is None and len(read(film, [200])) == 1
    film.write_bytes(films[1].read_bytes())
    os.utime(film, ns=(stamp + 1, stamp + 1))
    assert np.array_equal(read(film, [4000]), before) and len(kept_files(own_cache)) == 1


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_index_is_made_again(films, own_cache, damage) -> None:
    before = read(films[1], [4000])
    (kept,) = kept_files(own_cache)
    kept.write_bytes(kept.read_bytes()[:-300] if damage is None else damage)
    index.forget_loaded()
    assert np.array_equal(read(films[1], [4000]), before)
    assert index.Index.from_bytes(kept.read_bytes(), index.stamp_of(os.stat(films[1]))) is not None


def test_a_cache_that_cannot_be_written_to_is_passed_over(films, own_cache) -> None:
    own_cache.write_text("a file, not a folder")
    assert len(read(films[1], [4000])) == 1 and own_cache.is_file()


def test_short_files_leave_nothing(films, own_cache) -> None:
    read(films[0], [100])
    assert not kept_files(own_cache) and index.find_index(str(films[0])) is None


def test_only_the_last_indices_stay_in_memory(monkeypatch) -> None:
    known = index.Index(*(np.zeros(1, np.int64),) * 4, time_base=Fraction(1))
    monkeypatch.setattr(index, "MAX_LOADED", 2)
    monkeypatch.setattr(index, "_loaded", type(index._loaded)())
    for name in "abac":
        index._load(index._Film(name, "", 0), known)
    assert list(index._loaded) == ["a", "c"]


def test_an_index_that_tells_of_other_packets_is_not_followed(films) -> None:
    """As of a file that another one has replaced within the same nanosecond: counted from the start instead."""
    true = read(films[1], [4000])
    known = index.find_index(str(films[1]))
    moved = index.Index(known.pts + 7, known.keys, known.key_places, known.hidden, known.time_base)
    index.keep_index(str(films[1]), moved)
    assert np.array_equal(read(films[1], [4000]), true)


def test_pieces_of_a_film(films) -> None:
    """Neighbouring pieces share no frame and lose none; a clip of a piece is that of the frames themselves."""
    counts = []
    spans = [Span(0, 10), Span(10, 99.98), Span(99.98, None)]
    for span in spans:
        read_frames(films[1], lambda n, c=counts: c.append(n) or np.array([0]), "pyav", span=span)
    assert sum(counts) == 4500 and counts[0] == 250
    piece = read_frames(films[1], lambda n: np.array([0, 7]), "pyav", span=Span(100, 110))
    assert np.array_equal(piece, read(films[1], [2500, 2507]))
    at_5_fps = read_frames(films[1], np.arange, "pyav", fps=5, span=Span(100, 110))
    assert np.array_equal(at_5_fps, read(films[1], list(range(2500, 2750, 5))))
    instant = read_frames(films[1], np.arange, "pyav", span=Span(100.01, 100.02))
    assert np.array_equal(instant, read(films[1], [2500]))
    with pytest.raises(UnreadableVideo, match=r"has no frame from 180 s to 190 s: its last one is at 179.96 s"):
        read_frames(films[1], np.arange, "pyav", span=Span(180, 190))

"""Films are cut into pieces: by which rule, what the rows are, and that an epoch weighs films by their length."""

from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest

from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig
from hpm_video.config.clip_rules import ClipRule, read_clip_rule
from hpm_video.data import pieces
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import StepSampler
from hpm_video.data.manifest import read_manifest, write_manifest
from hpm_video.data.pieces import cut, read_lengths
from hpm_video.data.readers.length import read_length_s
from hpm_video.data.readers.limits import DEFAULT_LIMITS
from hpm_video.data.source import open_source
from hpm_video.data.splits import hold_out
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.pack import pack
from hpm_video.types import UserError

TEN = ClipRule("uniform", 10.0)
FPS = 5


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Let no test see the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HPM_VIDEO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Return a folder of films of 1, 4 and 8.4 s; frame i is grey of value 2 i + 20."""
    folder = tmp_path_factory.mktemp("films")
    for name, count in {"a.mp4": 5, "b.mkv": 20, "c.mp4": 42}.items():
        frames = np.stack([np.full((16, 16, 3), 2 * i + 20, np.uint8) for i in range(count)])
        write_video(folder / name, frames, FPS)
    return folder


def data(root, clips="uniform:2", **more) -> DataConfig:
    return DataConfig(
        root=str(root), clips=clips, num_frames=2, frame_size_px=[16, 16], sampling="segments", num_workers=0, **more
    )


@pytest.mark.parametrize(
    ("end_s", "edges"),
    [
        (3.0, [None, None]),  # shorter than a piece
        (14.9, [None, None]),  # a rest of less than half a piece lengthens the last one
        (15.1, [0, 10, None]),  # a longer one is a piece of its own
        (20.0, [0, 10, None]),
        (24.9, [0, 10, None]),
        (1000.0, [*range(0, 1000, 10), None]),
    ],
)
def test_the_rule_for_the_rest_at_the_end(end_s, edges) -> None:
    found = cut(TEN, None, None, end_s)
    assert found == list(zip(edges[:-1], edges[1:], strict=True))
    lengths = np.diff([start or 0 for start, _ in found] + [end_s])
    assert np.isclose(lengths.sum(), end_s) and (len(found) == 1 or 5 <= lengths.min() <= lengths.max() < 15)


def test_a_piece_is_cut_further() -> None:
    assert cut(TEN, 5.0, 27.0, 27.0) == [(5, 15), (15, 27)]
    assert cut(TEN, 5.0, 9.0, 9.0) == [(5, 9)] and cut(TEN, 5.0, None, 3.0) == [(5, None)]


@pytest.mark.skipif(find_spec("pytorchvideo") is None, reason="pytorchvideo is not installed")
def test_the_samplers_of_pytorchvideo() -> None:
    """Its uniform sampler drops up to a piece at the end, which is why that rule is our own."""
    from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler, UniformClipSampler

    sampler, theirs = ConstantClipsPerVideoSampler(2, 5), []
    while not theirs or not theirs[-1].is_last_clip:
        theirs.append(sampler(0.0, 22.0, {}))
    found = cut(read_clip_rule("constant_clips_per_video:2:5"), None, None, 22.0)
    assert found == [(float(clip.clip_start_sec), float(clip.clip_end_sec)) for clip in theirs] and len(found) == 5
    assert UniformClipSampler(10)(0.0, 19.9, {}).is_last_clip and len(cut(TEN, None, None, 19.9)) == 2


@pytest.mark.parametrize(
    "text",
    ["uniform", "uniform:0", "uniform:nan", "uniform:1:2", "uniform:x", "all:1", "constant_clips_per_video:2:1.5"],
)
def test_rules_that_are_refused(text) -> None:
    with pytest.raises(
        UserError, match=rf"data.clips: {text}; expected uniform:SECONDS, as in uniform:10, or constant"
    ):
        read_clip_rule(text)


def test_random_pieces_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="would be the same in each epoch. Try uniform, or no data.clips"):
        read_clip_rule("random:10")


def test_an_epoch_weighs_films_by_their_length(films) -> None:
    source = open_source(data(films), "train")
    names = [source.name(row) for row in range(len(source))]
    assert names == [
        "a.mp4",
        "b.mkv#t=0,2",
        "b.mkv#t=2",
        *(f"c.mp4#t={2 * k},{2 * k + 2}" for k in range(3)),
        "c.mp4#t=6",
    ]
    sampler = StepSampler(source.order, 0, 7, 7, 0, 1, range(1))
    rows = [row for row, _ in next(iter(sampler))]
    assert Counter(source.item(row).media.name for row in rows) == {"a.mp4": 1, "b.mkv": 2, "c.mp4": 4}


def test_the_pieces_of_a_film_are_its_frames(films) -> None:
    """Each frame is in one piece, and a clip has frames of its piece alone."""
    source = open_source(data(films), "train")
    dataset = ClipDataset(source, data(films, cache_gib=1.0), 0, training=True)
    for _ in range(2):  # the second time from the cache
        for row in range(len(source)):
            frames, _ = dataset.read_frames(row, np.random.default_rng(row))
            seconds = (frames.mean((1, 2, 3)) - 20) / 2 / FPS
            span = source.item(row).span
            assert span is None or (seconds >= span.start_s - 0.1).all()
            assert span is None or span.stop_s is None or (seconds < span.stop_s).all()
    assert set(dataset.cache) == {source.name(row) for row in range(len(source))}
    assert sum(map(len, dataset.cache.values())) == 5 + 20 + 42


def test_without_the_key_nothing_changes(films) -> None:
    plain, whole = open_source(data(films, None), "train"), open_source(data(films, "uniform:100"), "train")
    assert plain.table.to_pylist() == whole.table.to_pylist() and plain.fingerprint() == whole.fingerprint()
    assert plain.version() == whole.version() and set(plain.facts()) == {"label", "first_frame", "frames"}
    cut_up = open_source(data(films), "train")
    assert cut_up.fingerprint() != plain.fingerprint() and cut_up.version() != plain.version()


def test_a_film_that_cannot_be_opened_stays_one_row_and_is_counted(films, tmp_path) -> None:
    (tmp_path / "bad.mp4").write_text("no film")
    (tmp_path / "good.mp4").write_bytes((films / "c.mp4").read_bytes())
    source = open_source(data(tmp_path), "train")
    assert [source.name(row) for row in range(2)] == ["bad.mp4", "good.mp4#t=0,2"] and len(source) == 5
    sample = ClipDataset(source, data(tmp_path), 0, training=True)[(0, 0)]
    assert [failure.path for failure in sample.failures] == ["bad.mp4"] and sample.row > 0


def test_lengths_are_read_once(films, tmp_path, monkeypatch, own_cache) -> None:
    (tmp_path / "c.mp4").write_bytes((films / "c.mp4").read_bytes())
    found = read_lengths(tmp_path, ["c.mp4", "gone.mp4"], DEFAULT_LIMITS)
    assert found == {"c.mp4": pytest.approx(8.4, abs=0.01)}
    monkeypatch.setattr(pieces, "read_length_s", lambda *_: 77.0)
    assert read_lengths(tmp_path, ["c.mp4"], DEFAULT_LIMITS) == found
    (tmp_path / "c.mp4").write_bytes((films / "a.mp4").read_bytes())  # another film of that name
    assert read_lengths(tmp_path, ["c.mp4"], DEFAULT_LIMITS) == {"c.mp4": 77.0}
    (kept,) = own_cache.rglob("*.json")
    kept.write_text('{"c.mp4": 3}')
    assert read_lengths(tmp_path, ["c.mp4"], DEFAULT_LIMITS) == {"c.mp4": 77.0}


def test_lengths_of_containers(films, tmp_path, monkeypatch) -> None:
    """Of the stream, of the last packets (Matroska), and by walking through if a header claims more than a day."""
    assert read_length_s(str(films / "b.mkv")) == pytest.approx(4.0, abs=0.05)
    monkeypatch.setattr("hpm_video.data.readers.length.LONGEST_S", 1.0)
    for name, seconds in {"b.mkv": 4.0, "c.mp4": 8.4}.items():
        assert read_length_s(str(films / name)) == pytest.approx(seconds, abs=0.05)


def test_no_film_is_trained_on_and_held_out(films) -> None:
    source = open_source(data(films, "uniform:0.5"), "train")
    for seed in range(5):
        train, held = hold_out(source, 2, seed)
        assert not {*train.paths} & {*held.paths} or len(held) == 2
        assert len(train) + len(held) == len(source) and len(held) >= 2
    train, held = hold_out(source.select(range(2, 10)), 2, 0)  # pieces of one film: some of them
    assert {*train.paths} == {*held.paths} and len(held) == 2


@pytest.mark.parametrize("parquet", [False, True])
def test_pieces_in_a_manifest(films, tmp_path, parquet) -> None:
    rows = [Row("c.mp4", 0, start_s=1.5, stop_s=2.0), Row("c.mp4", 1, start_s=4.25), Row("a.mp4", 0)]
    write_manifest(tmp_path / "m", "x", films, {"train": rows, "validation": rows[2:]}, ["u", "v"], parquet=parquet)
    found = read_manifest(tmp_path / "m", "train")
    assert [Row(**row) for row in found.table.to_pylist()] == rows and found.name(0) == "c.mp4#t=1.5,2"
    assert (found.item(1).start_s, found.item(1).stop_s, found.item(1).span.stop_s) == (4.25, None, None)
    if not parquet:  # the table of whole files is that of earlier versions
        text = (tmp_path / "m" / "validation.csv").read_text()
        assert text.startswith("path,label,frames,fps,width,height,group,first_frame\n")
    cut_up = open_source(DataConfig(root=str(tmp_path / "m"), clips="uniform:1"), "train")
    assert [cut_up.name(row) for row in range(len(cut_up))][:2] == ["c.mp4#t=1.5,2", "c.mp4#t=4.25,5.25"]
    assert cut_up.labels == [0, 1, 1, 1, 1, 0]


def test_a_manifest_with_a_piece_of_no_length_is_refused(films, tmp_path) -> None:
    write_manifest(tmp_path, "x", films, {"train": [Row("c.mp4", start_s=2.0, stop_s=3.0)]}, [])
    table = tmp_path / "train.csv"
    for cells in ("3.0,2.0", "2.0,2.0", "nan,3", "-1,3"):
        table.write_text(table.read_text().replace("2.0,3.0", cells))
        with pytest.raises(
            UserError, match="train.csv, line 2: (start_s and stop_s that are not a piece|a negative start_s)"
        ):
            read_manifest(tmp_path, "train")
        table.write_text(table.read_text().replace(cells, "2.0,3.0"))


def test_shards_hold_whole_files(films, tmp_path) -> None:
    with pytest.raises(UserError, match="is a piece of a film, which shards do not hold yet; expected whole files"):
        pack(data(films), str(tmp_path / "cut"))
    pack(data(films, None), str(tmp_path / "whole"))
    with pytest.raises(UserError, match="data.clips: uniform, but .* is in shards; expected files"):
        open_source(data(tmp_path / "whole"), "train")

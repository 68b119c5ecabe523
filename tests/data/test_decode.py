"""HOW: the right frames from each reader, and a plain reason for what cannot be read."""

import csv
from pathlib import Path

import numpy as np
import pytest

from hpm_video.data.decode import UnreadableVideo, has_decord, read_frames, write_video

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd_codecs"


def numbered(count: int, height: int = 16, width: int = 32) -> np.ndarray:
    """Frame i is grey of value 5 * i + 10."""
    return np.stack([np.full((height, width, 3), 5 * i + 10, dtype=np.uint8) for i in range(count)])


def test_lossless_frames_are_exact(tmp_path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 16, 24, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mkv", frames, 10)
    index = np.array([0, 0, 3, 4, 11])
    assert np.array_equal(read_frames(tmp_path / "clip.mkv", lambda n: index, "pyav"), frames[index])


@pytest.mark.parametrize("reader", ["pyav", "decord", "auto"])
@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_each_reader_gives_the_right_frames(tmp_path, reader, suffix) -> None:
    if reader == "decord" and not has_decord():
        pytest.skip("decord is not installed (no wheel for this machine)")
    write_video(tmp_path / f"clip.{suffix}", numbered(40), 10)
    for index in ([0, 39], [5, 5, 6, 30], list(range(40))):
        counts = []
        frames = read_frames(
            tmp_path / f"clip.{suffix}", lambda n, i=index, c=counts: c.append(n) or np.array(i), reader
        )
        assert counts[-1] == 40 and frames.dtype == np.uint8 and frames.shape == (len(index), 16, 32, 3)
        assert (
            np.abs(frames.mean((1, 2, 3)) - (5 * np.array(index) + 10)).max() < 2.4
        )  # nearer to its own number than to any other


@pytest.mark.parametrize("reader", ["pyav", "decord", "auto"])
@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", "avi"), ("mpeg2video", "mpg"), ("libx264", "mp4")])
def test_right_frames_behind_b_frames_and_key_frames(tmp_path, reader, codec, suffix) -> None:
    """What seeking gets wrong: frames far from each other, in streams whose frames are stored out of order."""
    import av

    if reader == "decord" and not has_decord():
        pytest.skip("decord is not installed (no wheel for this machine)")
    file, count = tmp_path / f"clip.{suffix}", 60
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2", "g": "12", "b": "2000000"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(count):
            frame = np.full((64, 64, 3), 20 + 3 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    for index in ([count // 2], [7, 31, 32, 50], [0, 19, 38, 57]):
        frames = read_frames(file, lambda n, i=index: np.array(i), reader)
        shown = (frames.mean((1, 2, 3)) - 20) / 3
        assert np.abs(shown - index).max() < 0.7, (index, shown)


@pytest.mark.skipif(not ODD.is_dir(), reason="the folder shared/data/odd_codecs is not beside the project")
@pytest.mark.parametrize(
    "name",
    ["opencv_Megamind.avi", "torchcodec_h265_video.mp4", "forensics_movie-hello.mpeg", "decord_video_270.mov"],
)
def test_both_readers_give_the_same_frames_of_odd_files(name) -> None:
    if not has_decord():
        pytest.skip("decord is not installed (no wheel for this machine)")

    def choose(count: int) -> np.ndarray:
        return np.linspace(0, count - 1, 6).astype(np.int64)

    pyav, decord = (read_frames(ODD / name, choose, reader).astype(np.int16) for reader in ("pyav", "decord"))
    assert pyav.shape == decord.shape and np.abs(pyav - decord).mean((1, 2, 3)).max() < 0.3


def test_a_file_that_breaks_off_gives_what_stands_before(tmp_path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    write_video(tmp_path / "whole.mkv", frames, 10)
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(content[: len(content) // 2])
    kept = read_frames(tmp_path / "half.mkv", np.arange, "pyav")
    assert 10 <= len(kept) <= 21 and np.array_equal(kept[:-1], frames[: len(kept) - 1])


def test_every_unreadable_file_has_a_reason(tmp_path) -> None:
    import av

    write_video(tmp_path / "whole.mp4", numbered(20), 10)
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:200])
    (tmp_path / "text.mp4").write_text("no video at all" * 50)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for name, words in (
        ("zero", "empty"),
        ("cut", "no frame"),
        ("text", "no frame"),
        ("sound", "no video stream"),
        ("none", "no such file"),
    ):
        with pytest.raises(UnreadableVideo) as caught:
            read_frames(tmp_path / f"{name}.mp4", np.arange)
        assert words in caught.value.reason and f"{name}.mp4" in str(caught.value)


@pytest.mark.skipif(not ODD.is_dir(), reason="the folder shared/data/odd_codecs is not beside the project")
def test_odd_files_are_read_or_named() -> None:
    rows = list(csv.DictReader((ODD / "manifest.csv").open()))
    readable = 0
    for row in rows:
        file = ODD / next(v for k, v in row.items() if k in ("file", "path", "name"))
        try:
            frames = read_frames(file, lambda n: np.linspace(0, n - 1, 4).astype(np.int64))
            assert frames.shape[0] == 4 and frames.shape[3] == 3
            readable += 1
        except UnreadableVideo as error:
            assert error.reason
    assert readable >= 0.7 * len(rows)

"""Files that would take all memory or never answer: refused before their pixels are decoded, with the key that sets the limit."""

import os
import socket
import struct
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import DataConfig, load_config
from hpm_video.config.readers import READERS
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.readers.images import read_image
from hpm_video.data.readers.limits import Limits
from hpm_video.data.readers.probe import probe, read_timeline
from hpm_video.data.readers.rates import choose_at
from hpm_video.data.readers.read import is_installed, read_frames, read_item
from hpm_video.data.source import open_source
from hpm_video.evals.frozen.feature_file import plan_clips, read_times
from hpm_video.preprocess.encode import transcode, write_video
from hpm_video.preprocess.scan import scan
from hpm_video.types import Item, UnreadableVideo, UserError

readers = [
    pytest.param(
        r, marks=pytest.mark.skipif(not is_installed(r), reason=f"{r} is not installed, or does not load here")
    )
    for r in READERS
]
each_reader = pytest.mark.parametrize("reader", [*readers, "auto"])


def write_png(file: Path, side: int) -> None:
    """A square PNG of one bit a pixel, all black: a few kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = bytes(1 + (side + 7) // 8)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(row * side, 9))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b""))


def write_gif(file: Path, side: int) -> None:
    screen = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    file.write_bytes(screen + b"," + struct.pack("<HHHH", 0, 0, side, side) + b"\0\x02\x02\x44\x01\0;")


def grey(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((count, height, width, 3), 90, dtype=np.uint8)


@each_reader
@pytest.mark.parametrize("name", ["bomb.png", "bomb.gif", "huge.png"])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, reader, name) -> None:
    side = {"bomb.png": 13_300, "bomb.gif": 16_250, "huge.png": 13_500}[name]
    (write_png if name.endswith("png") else write_gif)(tmp_path / name, side)
    assert (tmp_path / name).stat().st_size < 300_000
    for media in (tmp_path / name, (tmp_path / name).read_bytes()):
        with pytest.raises(UnreadableVideo, match="px.*data.max_pixels|data.max_pixels.*px|pixels.*data.max_pixels"):
            read_frames(media, np.arange, reader)
    if name.endswith("gif"):
        for use in (probe, read_timeline, read_times, lambda file: transcode(file, tmp_path / "copy.mp4")):
            with pytest.raises(UnreadableVideo, match="data.max_pixels"):
                use(str(tmp_path / name))


@each_reader
@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv"])
def test_each_limit_names_its_key(tmp_path, reader, suffix) -> None:
    write_video(tmp_path / f"a.{suffix}", grey(20), 10)
    file, whole = tmp_path / f"a.{suffix}", 20 * 48 * 64 * 3 / 2**30

    def read(fps=None, **limits):
        return read_frames(file, np.arange, reader, fps, Limits(**limits))

    assert len(read(max_pixels=48 * 64, max_frames=20, max_sample_gib=whole)) == 20
    for given, words in (
        ({"max_pixels": 48 * 64 - 1}, "frames of 64 x 48 px; expected at most 3,071 pixels .data.max_pixels"),
        ({"max_frames": 19}, "20 frames; expected at most 19 .data.max_frames"),
        ({"max_frames": 39, "fps": 20}, "40 frames at data.fps=20, in .* hours; expected at most 39 .data.max_frames"),
        (
            {"max_sample_gib": whole * 0.99},
            "20 frames of 64 x 48 px take .* GiB; expected at most .* .data.max_sample_gib",
        ),
    ):
        with pytest.raises(UnreadableVideo, match=words):
            read(**given)
    assert len(read_frames(file, lambda n: np.zeros(3, dtype=int), reader, None, Limits(max_sample_gib=whole / 4))) == 3


def test_pictures_and_folders_of_frames_have_the_limits_too(tmp_path) -> None:
    for number in range(4):
        write_png(tmp_path / f"{number}.png", 100)
    item, picture = Item("x", tmp_path, -1, fps=10.0), 100 * 100 * 3 / 2**30
    assert read_item(item, np.arange, limits=Limits(max_pixels=10_000, max_sample_gib=4 * picture)).shape == (
        4,
        100,
        100,
        3,
    )
    for limits, words in (
        (Limits(max_pixels=9_999), "max_pixels"),
        (Limits(max_sample_gib=3.9 * picture), "max_sample_gib"),
        (Limits(max_frames=3), "max_frames"),
    ):
        with pytest.raises(UnreadableVideo, match=words):
            read_item(item, np.arange, limits=limits)
    with pytest.raises(UnreadableVideo, match="max_sample_gib"):
        read_frames(tmp_path / "0.png", lambda n: np.zeros(4, dtype=int), limits=Limits(max_sample_gib=3.9 * picture))
    for fps in (float("nan"), float("inf"), -1.0):
        with pytest.raises(UnreadableVideo, match="its manifest says .* frames per second"):
            read_item(item._replace(fps=fps), np.arange, fps=10)
    os.mkfifo(tmp_path / "4.png")
    with pytest.raises(UnreadableVideo, match="is a named pipe"):
        read_item(item, np.arange)


def test_a_gap_in_the_time_stamps_takes_no_memory() -> None:
    """4 million frames at this rate, of which three are chosen; years are refused."""
    times = np.array([0.0, 0.04, 0.08, 130_000.0, 130_000.04])
    tracemalloc.start()
    chosen = choose_at(lambda n: np.array([0, 3_000_000, n - 1]), times, 30, Limits(), "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chosen.tolist() == [0, 2, 3] and peak < 1 << 20
    for late in (1e8, 1e300, np.inf):
        with pytest.raises(UnreadableVideo, match="frames at data.fps=30.*data.max_frames"):
            choose_at(np.arange, np.append(times, late), 30, Limits(), "x")
    record = {"num_frames": 6, "times_s": [*times.tolist(), 1e12]}
    config = DataConfig(root="x", fps=30.0, max_frames=1000)
    assert len(plan_clips(0, record, config, windows=False)) == 1  # reading it then names the limit


@pytest.mark.parametrize("name", ["pipe", "socket", "device", "folder", "dangling", "none", "nul", "empty"])
def test_only_regular_files_are_opened(tmp_path, name) -> None:
    """Whatever opens a file of the user's: nothing waits for a writer that never comes."""
    file = str(tmp_path / f"{name}.mp4")
    if name == "pipe":
        os.mkfifo(file)
    elif name == "socket":
        socket.socket(socket.AF_UNIX).bind(file)
    elif name == "device":
        os.symlink("/dev/zero", file)
    elif name == "folder":
        os.mkdir(file)
    elif name == "dangling":
        os.symlink(tmp_path / "nowhere", file)
    elif name == "nul":
        file += "\0"
    elif name == "empty":
        Path(file).touch()
    words = {
        "pipe": "is a named pipe, not a file",
        "socket": "is a socket, not a file",
        "device": "is a device, not a file",
        "folder": "is a folder",
        "dangling": "is a link to a file that does not exist",
        "none": "no such file",
        "nul": "no such file",
        "empty": "file is empty",
    }[name]
    uses = [partial(read_frames, choose=np.arange, reader=reader) for reader in READERS if is_installed(reader)]
    for use in (*uses, read_image, probe, read_timeline, read_times, lambda f: transcode(f, tmp_path / "copy.mp4")):
        with pytest.raises(UnreadableVideo, match=words):
            use(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer, not the video; run git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>", "is a web page, not a video"),
        (b"\xef\xbb\xbf<HTML>", "is a web page, not a video"),
        (bytes(9000), "holds only zeros"),
        (b"PK\x03\x04" + bytes(90), "is a ZIP archive, not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "is a playlist, not a video"),
        (b"ffconcat version 1.0\nfile good.mp4\n", "is a playlist, not a video"),
    ],
)
def test_what_is_no_video_is_called_what_it_is(tmp_path, content, words) -> None:
    write_video(tmp_path / "good.mp4", grey(3), 10)
    (tmp_path / "a.mp4").write_bytes(content)
    for media in (tmp_path / "a.mp4", content):
        with pytest.raises(UnreadableVideo, match=words):
            read_frames(media, np.arange)


def test_a_colon_in_a_name_makes_no_protocol_of_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", grey(3), 10)
    (tmp_path / "a.mp4").rename("http:a.mp4")
    assert len(read_frames("http:a.mp4", np.arange, "pyav")) == 3


def test_the_keys_reach_training_and_features(tmp_path) -> None:
    """The large file is named with the key, and replaced by another one."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        write_video(tmp_path / "in" / f"{number}.mp4", grey(12), 10)
    write_video(tmp_path / "in" / "large.mp4", grey(12, 96, 128), 10)
    config = DataConfig(root=str(tmp_path / "in"), num_frames=4, frame_size_px=[32, 32], max_pixels=5000)
    dataset = ClipDataset(open_source(config, "train"), config, 0, training=True)
    samples = [dataset[(row, row)] for row in range(4)]
    failures = [failure for sample in samples for failure in sample.failures]
    assert len(failures) == 1 and "large.mp4" in failures[0].path and "(data.max_pixels)" in failures[0].reason
    with pytest.raises(UnreadableVideo, match="data.max_frames"):
        read_times(str(tmp_path / "in" / "0.mp4"), Limits(max_frames=3))


def test_scan_names_the_limit(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", grey(3), 10)
    write_png(tmp_path / "in" / "bomb.png", 13_300)
    write_gif(tmp_path / "in" / "bomb.gif", 16_250)
    told = scan(tmp_path / "in", tmp_path / "out", False, True, 1, 60.0)
    assert "1 good, 2 bad" in told and (tmp_path / "out" / "bad.csv").read_text().count("(data.max_pixels)") == 2


@pytest.mark.parametrize("value", ["nan", "-1", "0", ".nan"])
def test_a_rate_that_is_none_is_refused(value) -> None:
    with pytest.raises(UserError, match="data.fps"):
        load_config(None, ["data.root=x", "train.output=y", f"data.fps={value}"])

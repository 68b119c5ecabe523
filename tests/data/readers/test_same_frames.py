"""HOW, to the bit: each reader gives what decoding from the start gives, at square pixels and one size, or leaves it to PyAV."""

from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from hpm_video.config.readers import READERS
from hpm_video.data.readers import index as indices
from hpm_video.data.readers import packets
from hpm_video.data.readers.limits import Limits
from hpm_video.data.readers.packets import Packets
from hpm_video.data.readers.probe import count_decoded, probe
from hpm_video.data.readers.read import is_installed, read_frames
from hpm_video.preprocess.encode import transcode, write_video
from hpm_video.preprocess.scan import scan
from hpm_video.types import UnreadableVideo

readers = [
    pytest.param(
        r, marks=pytest.mark.skipif(not is_installed(r), reason=f"{r} is not installed, or does not load here")
    )
    for r in READERS
]
each_reader = pytest.mark.parametrize("reader", readers)


def noise(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def write(
    file, frames, codec="libx264", pix_fmt="yuv420p", aspect=None, options=None, times=None, container=None
) -> None:
    """`times`: when each frame is shown, in 1 / 1000 s."""
    with av.open(str(file), "w", options={"avoid_negative_ts": "disabled"} | (container or {})) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else 40 * number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def remux(source, target, keep=lambda number, packet: True, move=lambda number, pts: pts) -> None:
    """Copy packets without coding them anew: those that are kept, with their time stamps moved."""
    with av.open(str(source)) as given, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            if keep(number, packet):
                packet.pts, packet.dts = (
                    move(number, packet.pts),
                    None if packet.dts is None else move(number, packet.dts),
                )
                packet.stream = stream
                made.mux(packet)


def write_changing(file, sizes=((48, 64), (96, 160))) -> None:
    """VP8 that changes its size midway: 10 frames of each size, frame i grey of value 20 + 3 i."""
    with av.open(str(file), "w") as made:
        target = made.add_stream("libvpx", rate=10)
        target.height, target.width = sizes[0]
        target.pix_fmt = "yuv420p"
        for part, (height, width) in enumerate(sizes):
            coder = av.CodecContext.create("libvpx", "w")
            coder.height, coder.width, coder.pix_fmt, coder.time_base = height, width, "yuv420p", Fraction(1, 10)
            coder.options = {"b": "2000000", "auto-alt-ref": "0", "lag-in-frames": "0"}
            packets = []
            for number in range(10 * part, 10 * part + 10):
                grey = np.full((height, width, 3), 20 + 3 * number, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                frame.pts, frame.time_base = number, coder.time_base
                packets += coder.encode(frame)
            for packet in packets + coder.encode():
                packet.stream, packet.time_base = target, coder.time_base
                made.mux(packet)


def decode_forward(file) -> list[np.ndarray]:
    """Frames as decoding from the start gives them."""
    with av.open(str(file)) as container:
        stream = container.streams.best("video")
        return [np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90 % 4) for f in container.decode(stream)]


def coded(folder: Path, name: str = "a.mp4", **how) -> None:
    write(folder / name, noise(50), **how)


def leave_out(folder: Path, name: str, least_keys: int, source: str) -> None:
    """Keep the packets from this key frame on: the first frames then need others that are not in the file."""
    keys: list[int] = []
    remux(folder / source, folder / name, lambda n, p: (p.is_keyframe and keys.append(n)) or len(keys) >= least_keys)


def open_gop_in_ts(folder: Path) -> None:
    coded(folder, "source.ts", options=OPEN_GOP)
    leave_out(folder, "a.ts", 2, "source.ts")


def cut_hevc(folder: Path, keep=None) -> None:
    coded(folder, "source.mkv", codec="libx265", options={"x265-params": X265 + ":open-gop=1:keyint=12:min-keyint=12"})
    if keep:
        remux(folder / "source.mkv", folder / "a.mkv", keep)
    else:
        leave_out(folder, "a.mkv", 2, "source.mkv")


def moved(folder: Path, name: str, by: int, options: dict[str, str]) -> None:
    coded(folder, "source.mkv", options=options)
    remux(folder / "source.mkv", folder / name, move=lambda n, pts: pts - by)


def backwards(folder: Path) -> None:
    """The last cluster of the file begins 7 ms after the first frame."""
    options = {"g": "10", "auto-alt-ref": "0"}
    coded(folder, "source.mkv", codec="libvpx", options=options, container={"cluster_time_limit": "1000"})
    content = bytearray((folder / "source.mkv").read_bytes())
    place = content.index(b"\xe7\x82", content.rindex(b"\x1f\x43\xb6\x75")) + 2  # a cluster, which begins with its time
    content[place : place + 2] = b"\x00\x07"
    (folder / "a.mkv").write_bytes(content)


OPEN_GOP, X265 = {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}, "log-level=none"
UNEVEN = np.cumsum([7, 40, 900, 33, 1] * 10).tolist()
KINDS = {
    "10 bit": partial(coded, pix_fmt="yuv420p10le"),
    "10 bit hevc": partial(coded, codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": X265}),
    "4:4:4": partial(coded, pix_fmt="yuv444p"),
    "interlaced": partial(coded, options={"x264-params": "tff=1"}),
    "narrow": lambda folder: write(folder / "a.mp4", noise(20, 8, 8)),
    "open GOP in MPEG-TS": open_gop_in_ts,
    "starts in an open GOP": cut_hevc,
    "starts between key frames": partial(cut_hevc, keep=lambda number, packet: number > 14),
    "negative times": partial(moved, name="a.mkv", by=700, options=OPEN_GOP),
    "edit list": partial(moved, name="a.mp4", by=500, options={"g": "12", "bf": "2"}),
    "times go backwards": backwards,
    "uneven": partial(coded, name="a.mkv", options=OPEN_GOP, times=UNEVEN),
}


@pytest.mark.parametrize("kind", KINDS)
@each_reader
def test_each_reader_gives_what_decoding_from_the_start_gives(tmp_path, kind, reader) -> None:
    KINDS[kind](tmp_path)
    check_same(next(file for file in tmp_path.iterdir() if file.stem == "a"), reader)


def check_same(file, reader) -> None:
    truth = decode_forward(file)
    last = len(truth) - 1
    for index in (
        [last],
        [0, last // 2, last],
        [last // 3, min(last, last // 3 + 1)],
        list(range(min(len(truth), 40))),
    ):
        counts = []
        frames = read_frames(file, lambda n, i=index, c=counts: c.append(n) or np.array(i), reader)
        assert counts[-1] == len(truth)
        for number, pixels in zip(index, frames, strict=True):
            assert np.array_equal(pixels, truth[number]), (file.name, number)


FILMS = KINDS | {
    "open GOP in MP4": partial(coded, options=OPEN_GOP),
    "open GOP of HEVC": partial(
        coded, codec="libx265", options={"x265-params": X265 + ":open-gop=1:keyint=12:min-keyint=12"}
    ),
    "key frames only": partial(coded, options={"g": "1"}),
    "uneven in MP4": partial(coded, options={"g": "7", "bf": "3"}, times=UNEVEN),
    "negative times in MP4": partial(moved, name="a.mp4", by=40, options=OPEN_GOP),
    "fragments": partial(coded, options={"g": "12", "bf": "2"}, container={"movflags": "frag_keyframe+empty_moov"}),
    "VP9": partial(coded, name="a.webm", codec="libvpx-vp9", options={"g": "9", "lag-in-frames": "12"}),
    "AVI": partial(coded, name="a.avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
}


@pytest.mark.parametrize("kind", FILMS)
def test_frames_found_by_an_index_are_those_of_decoding_from_the_start(tmp_path, kind, monkeypatch) -> None:
    """As for long films: nothing is kept in memory, and the second time only the index tells where frames are."""
    monkeypatch.setattr(indices, "LEAST_PACKETS", 0)
    monkeypatch.setattr(packets, "MAX_KEPT_PACKETS", 0)
    FILMS[kind](tmp_path)
    file = next(file for file in tmp_path.iterdir() if file.stem == "a")
    check_same(file, "pyav")
    if indices.find_index(str(file)) is not None:  # else frames cannot be found by their times: they are counted
        monkeypatch.setattr(Packets, "of", lambda *_: pytest.fail("the file was walked through again"))
    else:
        assert kind in NOT_INDEXED
    check_same(file, "pyav")


NOT_INDEXED = {"open GOP in MPEG-TS", "starts in an open GOP", "starts between key frames", "AVI"}
NOT_INDEXED |= {"times go backwards", "negative times"}  # in Matroska PyAV gives none of these times


SMALL = ["cases/h264_opengop.ts", "cases/interlaced_h264.mp4", "cases/tiny8x8.mp4", "cases/gap_10_hours.mkv"]
SMALL += [f"odd_codecs/torchcodec_{name}.mp4" for name in ("h264_10bits", "h265_video")]
SMALL += ["odd_codecs/decord_video_270.mov", "odd_codecs/small_webm.webm", "odd_codecs/imageio_newtonscradle.gif"]


@pytest.mark.parametrize("name", SMALL)
@each_reader
def test_shared_files_are_read_alike(name, reader, shared_data) -> None:
    check_same(shared_data(Path(name).parent.name) / Path(name).name, reader)


@each_reader
@pytest.mark.parametrize(
    ("aspect", "width"),
    [
        (Fraction(2), 128),
        (Fraction(1, 2), 32),
        (Fraction(16, 11), 93),
        (Fraction(101, 100), 64),
        (Fraction(50), 64),
        (None, 64),
    ],
)
def test_pixels_are_square(tmp_path, reader, aspect, width) -> None:
    """Frames as players show them; what is nearly square, unknown or absurd stays as it is stored, to the bit."""
    write(tmp_path / "a.mp4", noise(12), aspect=aspect)
    stored = np.stack(decode_forward(tmp_path / "a.mp4"))
    shown = read_frames(tmp_path / "a.mp4", np.arange, reader)
    assert shown.shape == (12, 48, width, 3)
    if width == 64:
        assert np.array_equal(shown, stored)
    else:
        places = ((np.arange(width) + 0.5) * 64 / width).astype(int)
        assert np.abs(shown.astype(int) - stored[:, :, places]).mean() < 20
    assert probe(tmp_path / "a.mp4").pixel_aspect == pytest.approx(width / 64, abs=0.01)
    assert transcode(tmp_path / "a.mp4", tmp_path / "copy.mp4") == 12
    copied = probe(tmp_path / "copy.mp4")
    assert (copied.height, copied.pixel_aspect) == (48, 1) and abs(copied.width - width) <= 1


@each_reader
@pytest.mark.parametrize("suffix", ["webm", "avi"])
def test_a_change_of_size_is_scaled_to_the_first(tmp_path, reader, caplog, suffix) -> None:
    """Whichever frames are asked for: also if all of them have the later size. Said once."""
    write_changing(tmp_path / f"a.{suffix}")
    for index in ([15], [3, 12], [12, 3], [0, 5], list(range(20))):
        frames = read_frames(tmp_path / f"a.{suffix}", lambda n, i=index: np.array(i) + 0 * n, reader)
        assert frames.shape == (len(index), 48, 64, 3)
        assert np.abs((frames.mean((1, 2, 3)) - 20) / 3 - index).max() < 0.7
    said = [record.getMessage() for record in caplog.records if "changes its size (64 x 48" in record.getMessage()]
    assert len(said) == 1 and f"a.{suffix}" in said[0]


def test_a_change_of_size_is_reported_and_copied(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    write_changing(tmp_path / "in" / "a.webm")
    write(tmp_path / "in" / "wide.mp4", noise(12), aspect=Fraction(2))
    write_video(tmp_path / "in" / "plain.mp4", noise(12), 10)
    told = scan(tmp_path / "in", tmp_path / "out", False, False, 1, 60.0)
    assert "change their size midway (read at the size of their first frame): 1\n  - a.webm" in told
    assert "pixels that are not square (read with square ones, as players show them): 1\n  - wide.mp4" in told
    transcode(tmp_path / "in" / "a.webm", tmp_path / "copy.mp4")
    copy = read_frames(tmp_path / "copy.mp4", np.arange)
    assert copy.shape == (20, 48, 64, 3) and count_decoded(tmp_path / "copy.mp4") == 20
    assert np.abs((copy.mean((1, 2, 3)) - 20) / 3 - np.arange(20)).max() < 0.7


@pytest.mark.parametrize("reader", [r for r in readers if r.values[0] != "pyav"])
def test_what_a_reader_does_not_do_exactly_is_said(tmp_path, reader, caplog) -> None:
    write(tmp_path / "a.mp4", noise(12), pix_fmt="yuv420p10le")
    read_frames(tmp_path / "a.mp4", np.arange, reader)
    assert f"{reader}: its pixels have more than 8 bits (yuv420p10le); read with PyAV" in caplog.text


def test_a_frame_that_grows_beyond_the_limit(tmp_path) -> None:
    write_changing(tmp_path / "a.webm", ((48, 64), (480, 640)))
    with pytest.raises(UnreadableVideo, match="data.max_pixels"):
        read_frames(tmp_path / "a.webm", np.arange, limits=Limits(max_pixels=10_000))

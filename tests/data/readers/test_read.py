"""HOW: the right frames from each reader, and a plain reason for what cannot be read."""

import csv
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpm_video.config.readers import READERS
from hpm_video.data.readers.images import read_image
from hpm_video.data.readers.probe import probe
from hpm_video.data.readers.read import is_installed, read_frames, read_item
from hpm_video.preprocess.encode import write_video
from hpm_video.types import Item, UnreadableVideo, UserError


def numbered(count: int, height: int = 16, width: int = 32) -> np.ndarray:
    """Frame i is grey of value 5 * i + 10."""
    return np.stack([np.full((height, width, 3), 5 * i + 10, dtype=np.uint8) for i in range(count)])


needs = {
    reader: pytest.mark.skipif(not is_installed(reader), reason=f"{reader} is not installed, or does not load here")
    for reader in READERS
}
each_reader = pytest.mark.parametrize("reader", [pytest.param(r, marks=needs[r]) for r in READERS] + ["auto"])


@each_reader
def test_lossless_frames_are_exact(tmp_path, reader) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 16, 32, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mkv", frames, 10)
    for index in ([0, 0, 3, 4, 11], [11], [7, 2, 2, 9], list(range(12))):
        for media in (tmp_path / "clip.mkv", (tmp_path / "clip.mkv").read_bytes()):
            assert np.array_equal(read_frames(media, lambda n, i=index: np.array(i), reader), frames[index])


def write_numbered(file, codec, count, options, sizes=(64, 64), times=None, turned=0) -> None:
    """Frame i is grey of value 20 + 3 i, shown at `times[i]` (25 a second)."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = sizes
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000 if times else 25)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*sizes, 3), 20 + 3 * number, dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else number), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbers_of(frames: np.ndarray) -> np.ndarray:
    return (frames.mean((1, 2, 3)) - 20) / 3


@each_reader
@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", "mp4", {"bf": "3", "g": "12", "b": "2000000"}),
        ("libx264", "mkv", {"bf": "7", "g": "16", "x264-params": "b-pyramid=none:weightb=0"}),
        ("libx264", "mp4", {"bf": "2", "g": "10", "x264-params": "open-gop=1"}),
        ("libx264", "mp4", {"g": "1"}),
        ("libx265", "mp4", {"g": "12", "x265-params": "log-level=none:open-gop=1"}),
        ("libvpx-vp9", "webm", {"g": "9", "b": "0", "crf": "10", "auto-alt-ref": "1", "lag-in-frames": "12"}),
        ("mpeg4", "avi", {"bf": "2", "g": "12", "b": "2000000"}),
        ("mpeg2video", "mpg", {"bf": "2", "g": "12", "b": "2000000"}),
        ("mjpeg", "avi", {}),
    ],
    ids=lambda v: v if isinstance(v, str) else "_".join(f"{k}{w}" for k, w in v.items())[:20],
)
def test_right_frames_whatever_is_asked(tmp_path, reader, codec, suffix, options) -> None:
    """What seeking gets wrong: frames far from each other, in streams whose frames are stored out of order."""
    file, count = tmp_path / f"clip.{suffix}", 60
    write_numbered(file, codec, count, options)
    for index in ([0, 39, 59], [5, 5, 6, 30], list(range(60)), [30], [7, 31, 32, 50], [59, 0, 19, 38], [11, 12, 13]):
        counts = []
        frames = read_frames(file, lambda n, i=index, c=counts: c.append(n) or np.array(i), reader)
        assert counts[-1] == count and frames.dtype == np.uint8 and frames.shape == (len(index), 64, 64, 3)
        assert np.abs(numbers_of(frames) - index).max() < 0.7, (index, numbers_of(frames))


@each_reader
def test_by_time(tmp_path, reader) -> None:
    """A rate twice and half of the file's, and a file whose frames are not evenly spread."""
    write_numbered(tmp_path / "even.mp4", "libx264", 50, {"g": "12"})
    for fps, expected in ((50, np.arange(100) // 2), (12.5, np.arange(25) * 2), (25, np.arange(50))):
        frames = read_frames(tmp_path / "even.mp4", np.arange, reader, fps=fps)
        assert np.abs(numbers_of(frames) - expected).max() < 0.7
    times = np.cumsum([0] + [40] * 9 + [400] * 5 + [40] * 5).tolist()  # 0.36 s, then five long frames, then short ones
    write_numbered(tmp_path / "uneven.mp4", "libx264", 20, {"g": "12"}, times=times)
    frames = read_frames(tmp_path / "uneven.mp4", np.arange, reader, fps=10)
    expected = np.searchsorted(times, np.arange(len(frames)) * 100 + 0.5, side="right") - 1
    assert len(frames) == round((times[-1] + 40) / 100) and np.abs(numbers_of(frames) - expected).max() < 0.7


@each_reader
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_upright(tmp_path, reader, turn) -> None:
    """The first quarter of the stored picture is white; the file asks players to turn it."""
    import av

    stored = np.zeros((4, 32, 64, 3), dtype=np.uint8)
    stored[:, :16, :32] = 255
    write_video(tmp_path / "flat.mp4", stored, 10)
    with av.open(str(tmp_path / "flat.mp4")) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    set_rotation(tmp_path / "turned.mp4", turn)
    shown = read_frames(tmp_path / "turned.mp4", np.arange, reader)
    expected = np.rot90(stored, -turn // 90 % 4, axes=(1, 2))  # players turn clockwise
    assert shown.shape == expected.shape and np.abs(shown.astype(int) - expected).mean() < 3


def set_rotation(file, degrees) -> None:
    """Writes the matrix of an mp4's track header."""
    content = bytearray(file.read_bytes())
    start = content.index(b"tkhd") + 4
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = (cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    content[start + 40 : start + 76] = struct.pack(">9i", *matrix)
    file.write_bytes(bytes(content))


@each_reader
def test_the_right_one_of_two_streams(tmp_path, reader, caplog) -> None:
    """The one that the file names as its default."""
    import av
    from av.stream import Disposition

    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (32, 96), strict=True):
            stream.height = stream.width = side
            stream.pix_fmt = "yuv420p"
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for number in range(10):
            for stream, value in zip(streams, (200, 20 + 3 * number), strict=True):
                picture = np.full((stream.height, stream.width, 3), value, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    frames = read_frames(tmp_path / "two.mkv", lambda n: np.array([2, 7]), reader)
    assert reader != "decord" or "decord cannot read" in caplog.text  # takes the first one: PyAV steps in
    assert frames.shape == (2, 96, 96, 3) and np.abs(numbers_of(frames) - [2, 7]).max() < 0.7


def test_packets_of_a_long_file_are_read_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hpm_video.data.readers.packets.MAX_KEPT_BYTES", 1000)
    write_numbered(tmp_path / "clip.mp4", "libx264", 60, {"bf": "3", "g": "12", "b": "2000000"})
    for index in ([13, 50], [59], [0, 30, 31]):
        frames = read_frames(tmp_path / "clip.mp4", lambda n, i=index: np.array(i), "pyav")
        assert np.abs(numbers_of(frames) - index).max() < 0.7


@pytest.mark.parametrize("reader", [pytest.param("torchcodec", marks=needs["torchcodec"])])
def test_a_forced_reader_that_fails_is_said_and_replaced(tmp_path, caplog, reader) -> None:
    write_numbered(tmp_path / "clip.avi", "mpeg4", 20, {})  # its frames carry no times
    frames = read_frames(tmp_path / "clip.avi", np.arange, reader)
    assert len(frames) == 20 and "torchcodec cannot read" in caplog.text and "read with PyAV" in caplog.text


def test_images_and_folders_of_frames(tmp_path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 8, 10, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(tmp_path / f"img_{number}.png")  # 1, 2, ..., 10: by number, not by letter
    Image.fromarray(pictures[0][..., 0]).save(tmp_path / "grey.bmp")
    (tmp_path / "notes.txt").write_text("x")
    item = Item("x", tmp_path, -1, first_frame=3, num_frames=8)
    (tmp_path / "grey.bmp").rename(tmp_path.parent / f"{tmp_path.name}_grey.bmp")
    assert np.array_equal(read_item(item, lambda n: np.arange(n)[[0, 7, 7]]), pictures[[3, 10, 10]])
    assert len(read_item(Item("x", tmp_path, -1), np.arange)) == 12
    assert np.array_equal(read_item(item._replace(fps=10.0), np.arange, fps=5), pictures[3:11:2])
    with pytest.raises(UserError, match="data.fps: 5"):
        read_item(item, np.arange, fps=5)
    with pytest.raises(UnreadableVideo, match="has no frame from number 40"):
        read_item(Item("x", tmp_path, -1, first_frame=40), np.arange)
    for media in (tmp_path / "img_2.png", (tmp_path / "img_2.png").read_bytes()):
        assert np.array_equal(read_frames(media, lambda n: np.zeros(3, dtype=int)), pictures[[1, 1, 1]])
    grey = read_frames(tmp_path.parent / f"{tmp_path.name}_grey.bmp", np.arange)
    assert np.array_equal(grey, np.repeat(pictures[:1, ..., :1], 3, axis=3))
    (tmp_path / "img_2.png").write_text("<html>")
    with pytest.raises(UnreadableVideo, match="is a web page, not an image"):
        read_frames(tmp_path / "img_2.png", np.arange)
    (tmp_path / "img_2.png").write_text("nothing of the kind")
    with pytest.raises(UnreadableVideo, match="is not an image"):
        read_frames(tmp_path / "img_2.png", np.arange)


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


@each_reader
def test_odd_files_are_read_or_named(reader, shared_data) -> None:
    """What the manifest says: as many frames, of this size when upright; or a plain reason where there are none."""
    folder = shared_data("odd_codecs")
    for row in csv.DictReader((folder / "manifest.csv").open()):
        check_odd_file(folder / row["file"], row, reader)


def check_odd_file(file: Path, row: dict[str, str], reader: str) -> None:
    known = int(row["frames_decoded_by_pyav"] or 0)
    counts: list[int] = []

    def choose(count: int) -> np.ndarray:
        counts.append(count)
        return np.arange(count) if count < 100 else np.linspace(0, count - 1, 5).astype(np.int64)

    try:
        frames = read_frames(file, choose, reader)
    except UnreadableVideo as error:
        assert error.reason and known == 0, file
        return
    size = (int(row["height"]), round(int(row["width"]) * probe(file).pixel_aspect))
    assert frames.shape[1:3] == (size[::-1] if row["rotation"] in ("90", "270") else size), file
    assert counts[-1] == known and (known >= 100 or len(frames) == known), file


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_images_keep_their_range_and_are_upright(tmp_path, ending, bits) -> None:
    most = (1 << bits) - 1  # 16 bits: thermal, depth and medical images
    values = np.linspace(0, most, 64).astype(f"uint{bits}")[None].repeat(8, axis=0)
    expected = np.rint(values / (most / 255))[..., None].repeat(3, axis=2)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    for name, exif, shown in (("plain", None, expected), ("turned", turned, np.rot90(expected, -1))):
        Image.fromarray(values).save(file := tmp_path / f"{name}.{ending}", **({"exif": exif} if exif else {}))
        assert np.array_equal(read_image(str(file)), shown) and np.array_equal(read_image(file.read_bytes()), shown)


def test_values_without_a_known_range_are_refused(tmp_path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableVideo, match="float.tif: has values of an unknown range"):
        read_image(str(tmp_path / "float.tif"))

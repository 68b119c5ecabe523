"""Measure the cost of a clip at a random place of a long film, against one of a short file with the same coding.

    python benchmarks/bench_film.py [--json] [--minutes 30] [--clips 20] [--folder FOLDER]

Two files of 1280 x 720 px, 25 frames per second, H.264 with x264's defaults (a key frame every 10 s): one of 10 seconds, and
one of 30 minutes, which repeats the packets of one coded minute. A clip is 16 frames, stride 4, at a random place.
Reported for each case: CPU seconds of the process (user and system) and bytes read (rchar of /proc/self/io), medians over
the clips. *First read*: the film has no index yet. *Index from the disk*: another process has written it. *In memory*: as for
each clip after the first.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from hpm_video.data.readers import index
from hpm_video.data.readers.read import read_frames
from hpm_video.data.sampling import sample_dense
from hpm_video.runs.machine import describe_hardware

FPS, NUM_FRAMES, STRIDE = 25, 16, 4


def write_films(
    folder: Path, minutes: float, size: tuple[int, int] = (720, 1280), grain: int = 12
) -> tuple[Path, Path]:
    """Write short.mp4 and long.mp4; return their paths. `size`: height and width, pixels; grain: height of the noise,
    grey values."""
    minute = folder / "minute.mp4"
    _encode(minute, 60 * FPS, size, grain)
    return (
        _repeat(minute, folder / "short.mp4", 10 * FPS),
        _repeat(minute, folder / "long.mp4", round(minutes * 60 * FPS)),
    )


def _encode(file: Path, count: int, size: tuple[int, int], height: int) -> None:
    """Write a moving texture with a little noise that is new in each frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size[0] // 16 + 1, size[1] // 8 + 1), dtype=np.uint8)
    picture = coarse.repeat(16, axis=0).repeat(16, axis=1)
    grain = rng.integers(0, height, (8, *size), dtype=np.uint8)
    with av.open(str(file), "w") as made:
        stream = made.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "g": "250", "x264-params": "scenecut=0"}
        )
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            left = number * 3 % (picture.shape[1] - size[1])
            grey = picture[: size[0], left : left + size[1]] // 2 + 60 + grain[number % 8]
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="rgb24")))
        made.mux(stream.encode())


def _repeat(source: Path, target: Path, count: int) -> Path:
    """Write `count` frames of a film that repeats `source`, without encoding them again."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in given.demux(video=0) if p.size]
        base = given.streams.video[0].time_base
        length = round(len(packets) / FPS / base)
        for number in range(count):
            round_, place = divmod(number, len(packets))
            content, pts, dts, is_key = packets[place]
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, is_key
            packet.pts, packet.dts = pts + round_ * length, dts + round_ * length
            made.mux(packet)
    return target


def measure(read: Callable[[int], Any], clips: int) -> dict[str, float]:
    """Return the median CPU seconds and bytes read of `read(number)`."""
    seconds, num_bytes = [], []
    for number in range(clips):
        before, start = count_read(), time.process_time()
        read(number)
        seconds.append(time.process_time() - start)
        num_bytes.append(count_read() - before)
    return {"cpu_s": statistics.median(seconds), "bytes": statistics.median(num_bytes)}


def count_read() -> int:
    """Return how many bytes this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def read_clip(file: Path, number: int) -> np.ndarray:
    """Return a clip at a place drawn with its number as seed."""
    return read_frames(file, lambda n: sample_dense(n, NUM_FRAMES, STRIDE, np.random.default_rng(number)), "pyav")


def compare(short: Path, long: Path, clips: int) -> dict[str, dict[str, float]]:
    """Return the figures of the short file, and of the long one without and with its index. $HPM_VIDEO_CACHE is a new folder."""
    cache = os.environ["HPM_VIDEO_CACHE"]

    def read_first(number: int) -> None:
        index.forget_loaded()
        os.environ["HPM_VIDEO_CACHE"] = f"{cache}/{number}"  # empty
        read_clip(long, number)

    def read_loaded(number: int) -> None:
        index.forget_loaded()
        read_clip(long, number)

    read_clip(short, 0)  # the library is loaded
    found = {
        "short": measure(lambda number: read_clip(short, number), clips),
        "long, first read": measure(read_first, min(clips, 5)),
        "long, index from the disk": measure(read_loaded, clips),
        "long, index in memory": measure(lambda number: read_clip(long, number), clips),
    }
    for figures in found.values():
        figures["x_cpu"], figures["x_bytes"] = (figures[k] / found["short"][k] for k in ("cpu_s", "bytes"))
    return found


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--minutes", type=float, default=30, help="length of the long film (30)")
    parser.add_argument("--clips", type=int, default=20, help="clips of each case (20)")
    parser.add_argument("--folder", type=Path, help="folder for the films, which are kept (a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        os.environ["HPM_VIDEO_CACHE"] = str(Path(temporary) / "cache")
        films = folder / "short.mp4", folder / "long.mp4"
        short, long = films if all(film.is_file() for film in films) else write_films(folder, given.minutes)
        found = compare(short, long, given.clips)
        sizes = {film.name: film.stat().st_size for film in (short, long)}
    if given.json:
        print(json.dumps({"machine": describe_hardware(), "sizes": sizes, **found}, indent=1))  # noqa: T201
        return 0
    print(", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in sizes.items()))  # noqa: T201
    for name, f in found.items():
        cpu, read = f"{f['cpu_s']:.3f} CPU s ({f['x_cpu']:.2f} x)", f"{f['bytes'] / 1e6:8.2f} MB ({f['x_bytes']:.2f} x)"
        print(f"{name:<28} {cpu} {read}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

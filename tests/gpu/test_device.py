"""The device around the steps: memory and its end, waits of the host, transfers, and reading processes started after CUDA."""

import time
import warnings

import numpy as np
import pytest
import torch

from hpm_video.config import DataConfig, load_config
from hpm_video.costs.dry_run import dry_run
from hpm_video.costs.memory import estimate_memory
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.feed import Feed
from hpm_video.train.micro_batch import explained_shortage
from hpm_video.types import Batch, BatchSlice, UserError

pytestmark = pytest.mark.gpu
SYNCS = 2  # of a step: is the loss a number, and the norm of the gradient
LARGE = ["model.size=s", "optim.batch_size=16", "engine.graphs=never"]  # 16 x 224 px
ALWAYS = ["data.root=nowhere", "train.output=nowhere", "engine.kind=plain"]


def test_the_host_waits_for_the_device_only_where_it_is_named(gpu, settings, make_loop, record_property) -> None:
    for graphs in ("never", "auto"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        config = settings("hpm_teacher", engine__precision="bf16", engine__graphs=graphs, mask__hard_share_start=0.5)
        loop, feed = make_loop(config, gpu, 1000, 500)
        feed.batches = iter([next(feed.batches) for _ in range(6)])
        for _ in range(4):
            loop._one_step(feed, False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                loop._one_step(feed, False)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        syncs = [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]
        record_property(f"graphs_{graphs}", len(syncs))
        record_property(f"places_{graphs}", syncs[:10])
        assert len(syncs) <= SYNCS, syncs


def test_the_estimate_of_memory_is_within_a_tenth(gpu, record_property) -> None:
    config = load_config(None, ["preset=hpm_teacher", *LARGE, *ALWAYS, "engine.precision=bf16"])
    run = dry_run(config, config.optim.batch_size, True)
    estimate = sum(estimate_memory(config, run, 1).values())
    clips = torch.randn(config.optim.batch_size, 16, 224, 224, 3, device=gpu).permute(0, 4, 1, 2, 3)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    student = build_student(config)
    step, engine = PretrainStep(config, student, gpu), PlainEngine(student, config, gpu)
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        result, _ = step(engine, clips, BatchSlice(0, len(clips), len(clips)), 750, 1000)
        engine.backward(result.loss)
        engine.step(1e-5)
        step.after_update(engine, 750, 1000)
    peak = torch.cuda.max_memory_allocated() - before
    for name, value in {"peak_gib": peak / 2**30, "estimate_gib": estimate / 2**30, "ratio": peak / estimate}.items():
        record_property(name, value)
    assert 0.9 < peak / estimate < 1.1


def test_a_shortage_of_memory_is_a_sentence(device, settings) -> None:
    config = settings("hpm_teacher")
    with pytest.raises(
        UserError, match=r"out of memory: .*GiB .* are free; the model takes .* Try engine.micro_batch_size="
    ):
        with explained_shortage(config):
            if device.type == "cpu":
                torch.empty(2**50)
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(0.01)
            try:
                kept = [torch.empty(2**28, device=device) for _ in range(64)]
                del kept
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)


def test_transfers_from_pinned_memory_are_overlapped(gpu, record_property) -> None:
    """The copy of the next micro batch takes no time of its own beside the products of this one."""
    shape = (16, 16, 512, 512, 3)  # 192 MiB
    clip = torch.zeros(shape, dtype=torch.uint8).pin_memory().permute(0, 4, 1, 2, 3)
    batch = Batch(clip, torch.zeros(16, dtype=torch.long), torch.arange(16))
    a, feed = torch.randn(4096, 4096, device=gpu, dtype=torch.bfloat16), Feed(iter([batch] * 100), gpu)

    def copy() -> None:
        feed.read_ahead()
        feed.next()

    def multiply() -> None:
        for _ in range(40):
            torch.mm(a, a)

    def both() -> None:
        multiply()
        copy()

    def seconds(run) -> float:
        times = []
        for _ in range(6):
            torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times)

    alone = {"copy": seconds(copy), "products": seconds(multiply)}
    told = alone | {"both": seconds(both)}
    for name, value in told.items():
        record_property(name, value)
    assert told["both"] < 0.85 * sum(alone.values()) or told["both"] < 1.1 * max(alone.values())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    pytest.importorskip("av", reason="PyAV is not installed")
    from hpm_video.preprocess.encode import write_video

    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(4):
        write_video(root / f"{number}.mkv", rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), 10)
    return root


def test_loader_processes_that_start_after_cuda(gpu, videos) -> None:
    from hpm_video.data.dataset import ClipDataset
    from hpm_video.data.loader import make_loader
    from hpm_video.data.source import open_source

    torch.zeros(1, device=gpu)
    config = DataConfig(root=str(videos), sampling="dense", num_frames=4, stride=2, frame_size_px=[16, 16])
    source = open_source(config, "train")
    assert source is not None
    streams = [make_loader(ClipDataset(source, config, 0, training=True), 4, 4, 0, 1, 0, count, 3) for count in (2, 0)]
    pairs = list(zip(*streams, strict=True))
    assert len(pairs) == 3 and all(torch.equal(a.clip, b.clip) for a, b in pairs)
    assert all(a.clip.is_pinned() for a, _ in pairs)

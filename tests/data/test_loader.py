"""WHAT and in which order: crops, replacement of bad files, and a stream that no split of the batch changes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from hpm_video.config import DataConfig
from hpm_video.data.bad_samples import BadSamples
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import StepSampler, load_held_out, make_loader
from hpm_video.data.orders import ShuffledOrder
from hpm_video.data.readers.read import read_frames
from hpm_video.data.source import open_source
from hpm_video.data.transforms import Normalise, make_transform, multiscale_box, random_resized_box
from hpm_video.preprocess.encode import write_video
from hpm_video.types import UnreadableVideo, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(10):
        write_video(root / f"{number}.mp4", rng.integers(0, 255, (12, 24, 32, 3), dtype=np.uint8), 10)
    (root / "bad.mp4").write_bytes(b"")
    return root


def config_of(root, **keys) -> DataConfig:
    return DataConfig(root=str(root), **({"num_frames": 4} | keys), frame_size_px=[16, 16], num_workers=0)


def dataset_of(root, **keys) -> ClipDataset:
    config = config_of(root, **keys)
    return ClipDataset(open_source(config, "train"), config, 0, training=True)


@pytest.mark.parametrize("crop", ["multiscale", "random_resized", "center"])
def test_one_crop_for_all_frames_and_any_shape(crop) -> None:
    frames = np.broadcast_to(np.random.default_rng(1).integers(0, 255, (1, 40, 60, 3), dtype=np.uint8), (5, 40, 60, 3))
    transform = make_transform(DataConfig(root="x", frame_size_px=[16, 24], crop=crop, flip=True), training=True)
    clips = [transform(frames, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert clips[0].shape == (3, 5, 16, 24) and clips[0].dtype == torch.uint8
    assert all(torch.equal(clip, clip[:, :1].expand_as(clip)) for clip in clips)
    assert torch.equal(clips[0], clips[1])
    assert len({clip.numpy().tobytes() for clip in clips}) > 1


def test_boxes_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((20, 300), (300, 20), (24, 24)):
        for _ in range(200):
            for box in (
                multiscale_box(height, width, (16, 24), [1, 0.875, 0.75, 0.66], rng),
                random_resized_box(height, width, (16, 24), [0.2, 1.0], rng),
            ):
                assert box.top >= 0 and box.left >= 0 and min(box.height, box.width) >= 1
                assert box.top + box.height <= height and box.left + box.width <= width


def test_every_split_sees_the_same_global_batches() -> None:
    def rows_of(micro, world_size, steps=range(5)):
        samplers = [
            iter(StepSampler(ShuffledOrder(7), 3, 8, micro, rank, world_size, steps)) for rank in range(world_size)
        ]
        batches = []
        for _ in steps:
            batches.append(
                [key for _ in range(8 // (micro * world_size)) for sampler in samplers for key in next(sampler)]
            )
        return batches

    whole = rows_of(8, 1)
    assert rows_of(4, 2) == whole and rows_of(2, 2) == whole and rows_of(1, 4) == whole
    assert rows_of(2, 2, range(3, 5)) == whole[3:]  # resumed at the exact next sample
    stream = [row for batch in whole for row, _ in batch]
    assert sorted(stream[:7]) == sorted(stream[7:14]) == list(range(7)) and stream[:7] != stream[7:14]
    assert stream[:7] == [ShuffledOrder(7).row(3, 0, place) for place in range(7)]


def test_batches_do_not_depend_on_workers_cache_or_start(folder) -> None:
    def clips(start=0, workers=0, **keys):
        return [b.clip for b in make_loader(dataset_of(folder, **keys), 4, 4, 0, 1, start, workers, 6)]

    plain = clips()
    for other in (clips(workers=2), clips(cache_gib=0.1)):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain[3:], clips(start=3), strict=True))


@pytest.mark.parametrize("num_frames", [1, 4])
def test_a_kept_picture_is_decoded_once_and_gives_the_same_clips(folder, monkeypatch, num_frames) -> None:
    picture, times = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8), []

    def read(item, choose, reader, fps, limits):
        times.append(item.name)
        return picture[None][choose(1)]

    monkeypatch.setattr("hpm_video.data.dataset.read_item", read)
    plain, kept = (dataset_of(folder, num_frames=num_frames, cache_gib=gib) for gib in (0.0, 0.1))
    for position in range(3):
        assert torch.equal(plain[0, position].clip, kept[0, position].clip)
    assert len(times) == 3 + 1 and [frames.shape for frames in kept.cache.values()] == [(1, 24, 32, 3)]


def test_bad_files_are_replaced_named_and_counted(folder, caplog) -> None:
    log = BadSamples(0.5, "replaced")
    batches = list(make_loader(dataset_of(folder), 11, 11, 0, 1, 0, 0, 3))
    for batch in batches:
        log.add(batch.failures)
    assert all(batch.clip.shape[0] == 11 for batch in batches)
    assert sum(len(b.failures) for b in batches) == 3
    assert log.names == ["bad.mp4: file is empty (0 bytes)"]


def test_a_replacement_does_not_depend_on_what_was_read_before(folder, monkeypatch) -> None:
    """A file that fails after its frames were chosen: a process that knows it draws as one that meets it."""
    dataset = dataset_of(folder)
    broken = dataset.source.paths.index("3.mp4")

    def read(item, choose, reader, fps, limits):
        indices = choose(12)
        if item.name == "3.mp4":
            raise UnreadableVideo(item.name, "broken in the middle")
        return np.broadcast_to(indices[:, None, None, None].astype(np.uint8), (4, 24, 32, 3))

    monkeypatch.setattr("hpm_video.data.dataset.read_item", read)
    for position in range(10):
        dataset.bad.clear()
        met, known = dataset[(broken, position)], dataset[(broken, position)]
        assert met.failures and met.row == known.row != broken and torch.equal(met.clip, known.clip)


def test_a_second_reader_is_asked_for_the_same_frames(folder, monkeypatch) -> None:
    asked = []

    def read(item, choose, reader, fps, limits):
        asked.extend(choose(100).tolist() for _ in range(2))
        return np.zeros((4, 24, 32, 3), dtype=np.uint8)

    monkeypatch.setattr("hpm_video.data.dataset.read_item", read)
    dataset_of(folder).read_frames(0, np.random.default_rng(0))
    assert asked[0] == asked[1]


def test_the_cache_never_decodes_what_cannot_fit(folder, monkeypatch) -> None:
    sizes = []

    def read(item, choose, reader, fps, limits):
        frames = read_frames(item.media, choose, reader)
        sizes.append(len(frames))
        return frames

    monkeypatch.setattr("hpm_video.data.dataset.read_item", read)
    whole = 12 * 24 * 32 * 3
    dataset = dataset_of(folder, cache_gib=2.5 * whole / 2**30)
    for row in (0, 1, 2, 0, 1, 2):
        dataset.read_frames(row, np.random.default_rng(row))
    assert sizes == [4, 12, 4, 12, 4, 4] and len(dataset.cache) == 2 and dataset.cache_left == whole // 2


def test_neighbouring_scales_are_all_as_likely() -> None:
    rng, scales = np.random.default_rng(0), [1, 0.875, 0.75, 0.66]
    boxes = [multiscale_box(200, 200, (100, 100), scales, rng) for _ in range(6000)]
    drawn = [(box.height, box.width) for box in boxes]
    sides = [200, 175, 150, 132]
    expected = {(a, b) for i, a in enumerate(sides) for k, b in enumerate(sides) if abs(i - k) <= 1}
    assert set(drawn) == expected
    assert all(abs(drawn.count(pair) / 6000 - 0.1) < 0.02 for pair in expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_tells_what_is_wrong_in_one_line(tmp_path, workers) -> None:
    (tmp_path / "0.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="^no readable video in 20 tries") as caught:
        next(iter(make_loader(dataset_of(tmp_path), 2, 2, 0, 1, 0, workers, 2)))
    assert "Traceback" not in str(caught.value)


def test_a_worker_that_dies_is_a_user_error(folder, monkeypatch) -> None:
    monkeypatch.setattr(
        ClipDataset, "read_frames", lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    )  # no memory left
    stream = iter(make_loader(dataset_of(folder), 2, 2, 0, 1, 0, 1, 2))
    with pytest.raises(UserError, match="process that reads videos died .*data.num_workers"):
        next(stream)


def test_a_worker_killed_in_the_middle_is_a_user_error_not_a_hang(folder) -> None:
    stream = make_loader(dataset_of(folder), 2, 2, 0, 1, 0, 2, 5000)
    next(stream)
    os.kill(stream.pool.workers[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"process that reads videos died \(signal 9\)"):
        for _ in range(100):
            next(stream)
    assert all(worker.has_ended() for worker in stream.pool.workers)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("hang", "no answer within 4 s"), ("crash", "crashes its reader (signal 11)")],
)
def test_a_file_that_hangs_or_crashes_its_reader_is_a_bad_file(folder, monkeypatch, fault, reason) -> None:
    """The worker is ended, the file replaced and counted, and every clip is the one that a listed bad file gives."""

    def read(item, choose, reader, fps, limits):
        if item.name == "3.mp4":
            if fault == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(1000)
        return read_frames(item.media, choose)

    monkeypatch.setattr("hpm_video.data.dataset.read_item", read)
    dataset = dataset_of(folder, time_limit_s=4.0)
    stream = make_loader(dataset, 4, 2, 0, 1, 0, 2, 6)
    batches = list(stream)
    assert all(worker.has_ended() for worker in stream.pool.workers)
    expected_set = dataset_of(folder)
    expected_set.bad["3.mp4"] = reason
    expected = list(make_loader(expected_set, 4, 2, 0, 1, 0, 0, 6))
    assert len(batches) == len(expected) == 12
    for batch, other in zip(batches, expected, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(batch[:3], other[:3], strict=True))
        assert batch.failures == other.failures
    assert ("3.mp4", reason) in {(f.path, f.reason) for b in batches for f in b.failures}


def test_repeats_decode_once_and_crop_each(folder, monkeypatch) -> None:
    reads = []

    def read(item, choose, reader, fps, limits):
        reads.append(item.name)
        return read_frames(item.media, choose)

    monkeypatch.setattr("hpm_video.data.dataset.read_item", read)
    batches = list(make_loader(dataset_of(folder, repeats=4), 8, 8, 0, 1, 0, 0, 3))
    assert (
        len(reads) == len([r for r in reads if r != "bad.mp4"]) + reads.count("bad.mp4") == 6 + reads.count("bad.mp4")
    )
    rows = torch.cat([b.sample for b in batches]).view(6, 4)
    assert (rows == rows[:, :1]).all() and len(set(rows[:, 0].tolist())) == 6
    clips = torch.cat([b.clip for b in batches]).unflatten(0, (6, 4))
    assert all(len({clip.numpy().tobytes() for clip in group}) > 1 for group in clips)
    split = [list(make_loader(dataset_of(folder, repeats=4), 8, 2, rank, 2, 0, 0, 3)) for rank in range(2)]
    joined = [b.clip for pair in zip(*split, strict=True) for b in pair]
    assert torch.equal(
        torch.cat(joined), torch.cat([b.clip for b in batches])
    )  # cut through the groups: the same clips


@pytest.mark.parametrize("crop", ["multiscale", "random_resized", "center"])
def test_a_crop_is_told_as_shares_of_the_frame(crop) -> None:
    """Red rises down the frame, green to the right: the colours of a clip say where it was cut."""
    frames = np.zeros((1, 50, 80, 3), np.uint8)
    frames[..., 0], frames[..., 1] = 5 * np.arange(50)[:, None], 3 * np.arange(80)
    transform = make_transform(config_of("x", num_frames=1, crop=crop, flip=True), training=True)
    mirrored, middle = set(), (np.arange(16) + 0.5)[4:12] / 16
    for seed in range(20):
        clip, (top, left, height, width, flipped) = transform.cut(frames, np.random.default_rng(seed))
        assert torch.equal(clip, transform(frames, np.random.default_rng(seed)))
        red, green = clip[0, 0].float().mean(1)[4:12], clip[1, 0].float().mean(0)
        green = (green.flip(0) if flipped else green)[4:12]
        np.testing.assert_allclose(red, 5 * ((top + middle * height) * 50 - 0.5), atol=2)
        np.testing.assert_allclose(green, 3 * ((left + middle * width) * 80 - 0.5), atol=2)
        mirrored.add(flipped)
    assert mirrored == {0.0, 1.0}


def test_crops_come_with_the_clips_from_any_process(folder) -> None:
    batches, others = (
        list(make_loader(dataset_of(folder, repeats=2, flip=True), 4, 4, 0, 1, 0, workers, 3)) for workers in (0, 2)
    )
    for batch, other in zip(batches, others, strict=True):
        assert batch.crop.shape == (4, 5) and batch.crop.dtype == torch.float32 and torch.equal(batch.crop, other.crop)
        assert torch.equal(batch.clip, other.clip)
    crops = torch.cat([batch.crop for batch in batches]).unflatten(0, (6, 2))
    assert (crops[:, 0] != crops[:, 1]).any(1).sum() > 3  # each repeat has its own
    config = config_of(folder)
    other_transform = ClipDataset(
        open_source(config, "train"), config, 0, True, lambda frames, rng: make_transform(config, True)(frames, rng)
    )
    for workers in (0, 1):
        assert next(make_loader(other_transform, 4, 4, 0, 1, 0, workers, 1)).crop is None


def test_repeats_keep_every_sample_once_an_epoch() -> None:
    def rows_of(micro, world_size, repeats):
        samplers = [
            StepSampler(ShuffledOrder(7), 3, 12, micro, rank, world_size, range(7), repeats)
            for rank in range(world_size)
        ]
        lists = [list(sampler) for sampler in samplers]
        return [key for parts in zip(*lists, strict=True) for keys in parts for key in keys]

    for repeats in (1, 2, 3):
        whole = rows_of(12, 1, repeats)
        assert whole == rows_of(6, 2, repeats) == rows_of(2, 3, repeats)
        rows = [row for row, position in whole if position % repeats == 0]
        assert sorted(rows[:7]) == sorted(rows[7:14]) == list(range(7))


def test_a_stream_goes_on_behind_what_was_given() -> None:
    sampler = StepSampler(ShuffledOrder(7), 3, 8, 2, 1, 2, range(4, 9))
    whole = list(sampler)
    assert len(sampler) == len(whole) == 10
    sampler.num_given = 7
    assert list(sampler) == whole[7:] and len(sampler) == 3


def test_clips_are_stored_frame_by_frame_also_where_they_are_normalised(folder) -> None:
    """The order in which `take_patches` reads a token's values in one go."""
    config = config_of(folder)
    batch = next(make_loader(dataset_of(folder), 4, 4, 0, 1, 0, 0, 1))
    assert batch.clip.shape == (4, 3, 4, 16, 16) and batch.clip.permute(0, 2, 3, 4, 1).is_contiguous()
    before, normal = batch.clip.clone(), Normalise(config)(batch.clip)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (config.mean, config.std))
    assert normal.permute(0, 2, 3, 4, 1).is_contiguous() and torch.allclose(normal, (batch.clip / 255 - mean) / std)
    assert torch.equal(batch.clip, before)


UNFINISHED = """
import sys
from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.source import open_source

config = DataConfig(root=sys.argv[1], num_frames=4, frame_size_px=[16, 16])
stream = iter(make_loader(ClipDataset(open_source(config, "train"), config, 0, True), 2, 2, 0, 1, 0, 1, 500))
next(stream)
"""


@pytest.mark.parametrize("readable", [True, False])
def test_a_process_that_stops_early_ends(folder, tmp_path, readable) -> None:
    """Workers ignore SIGTERM, with which Python ends them: a process that holds a stream, or fails, must not hang."""
    (tmp_path / "0.mp4").write_bytes((folder / "0.mp4").read_bytes() if readable else b"")
    command = [sys.executable, "-c", UNFINISHED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == (0 if readable else 1)
    assert done.stderr == "" if readable else "UserError: no readable video" in done.stderr


def test_nothing_readable_is_one_clear_error(tmp_path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="no readable video"):
        dataset_of(tmp_path)[(0, 0)]
    with pytest.raises(UserError, match="none of the first 3 samples"):
        load_held_out(open_source(config_of(tmp_path), "train"), config_of(tmp_path), 2)


def test_held_out_clips_are_fixed(folder) -> None:
    manifest = open_source(config_of(folder), "train")
    first, second = (load_held_out(manifest, config_of(folder), 5) for _ in range(2))
    assert torch.equal(first[0], second[0]) and first[0].shape == (5, 3, 4, 16, 16) and "bad.mp4" not in first[1]


def test_auto_takes_no_more_workers_than_shared_memory_has_room_for(monkeypatch) -> None:
    from collections import namedtuple
    from types import SimpleNamespace

    from hpm_video.data import stream as module

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(0, 0, 7 * 4 * 16 * 16 * 3 * 2 / 0.9 + 9))
    for asked, num_workers, kept in (("auto", 16, 6), ("auto", 3, 3)):
        config = SimpleNamespace(num_workers=asked, num_frames=4, frame_size_px=[16, 16])
        stream = module.ClipStream.__new__(module.ClipStream)
        stream.dataset, stream.sampler = SimpleNamespace(config=config), SimpleNamespace(micro=2)
        stream.num_workers, stream.num_streams = num_workers, 1
        stream._choose_prefetch()
        assert stream.num_workers == kept
    config.num_workers, stream.num_workers = 16, 16
    with pytest.raises(UserError, match="data.num_workers 16"):
        stream._choose_prefetch()

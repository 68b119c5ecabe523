"""HOW clips of a batch are mixed while clips of one video stand beside each other (data.repeats)."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hpm_video.catalog.rows import Row
from hpm_video.config import AugmentConfig, DataConfig
from hpm_video.data import augment
from hpm_video.data.augment import mix
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import StepSampler, make_loader
from hpm_video.data.manifest import write_manifest
from hpm_video.data.orders import ShuffledOrder
from hpm_video.data.source import open_source
from hpm_video.method import finetune_step
from hpm_video.preprocess.encode import write_video
from hpm_video.train.finetune import finetune, finetune_config
from hpm_video.types import BatchSlice

# Partner of each clip: x.flip(0) of the batch of one GPU, --mixup_mode batch. Odd batches are refused there.
# Source: github.com/MCG-NJU/VideoMAE, commit 14ef8d8, mixup.py; repeated clips beside each other: utils.py, the collate function.
PARTNERS = {2: [1, 0], 4: [3, 2, 1, 0], 16: list(range(15, -1, -1))}
NUM_CLASSES, STEPS = 174, 800
# Share of a target that belongs to another class. Half of the batches are mixed up, by Beta(0.8, 0.8) of mean 1/2; half are cut,
# by a box of sides r = sqrt(u), u uniform, of which r - r * r / 4 lies within the frame on average: mean area 77 / 240.
# Of both, 0.9 is left by label smoothing.
FOREIGN = 0.9 * (1 / 2 + 77 / 240) / 2  # 0.369


def shares(num_clips: int, labels: list[int]) -> torch.Tensor:
    """[STEPS, B]: the share of another class in each target."""
    label, clip = torch.tensor(labels), torch.zeros(num_clips, 1, 1, 112, 112)
    place, found = BatchSlice(0, num_clips, num_clips), []
    for step in range(STEPS):
        target = mix(clip, label, NUM_CLASSES, AugmentConfig(), 0, step, place)[1]
        found.append(1 - target[torch.arange(num_clips), label] - (NUM_CLASSES - 1) * 0.1 / NUM_CLASSES)
    return torch.stack(found)


@pytest.mark.parametrize(("num_clips", "partners"), PARTNERS.items())
def test_the_partner_is_at_the_mirrored_place(num_clips, partners) -> None:
    assert augment.mirrored_places(num_clips) == partners


@pytest.mark.parametrize(
    ("num_clips", "labels"), [(4, [0, 0, 1, 1]), (2, [0, 1])], ids=["two of each video", "two clips"]
)
def test_shares_of_mixed_targets(num_clips, labels) -> None:
    """Published 2 % of unmixed clips and a share of .370; the clip before as partner gives 51 % and .185."""
    found = shares(num_clips, labels)
    assert abs(float(found.mean()) - FOREIGN) < 0.03
    assert float((found < 0.01).float().mean()) < 0.04


def test_an_odd_micro_batch_mixes_every_clip() -> None:
    assert augment.mirrored_places(5) == [4, 3, 4, 1, 0] and augment.mirrored_places(1) == [0]
    for num_clips in range(2, 40):
        assert all(place != partner for place, partner in enumerate(augment.mirrored_places(num_clips)))


def same_video(micro: int, repeats: int, batch_size: int, num_videos: int) -> float:
    """The share of clips whose partner is cut from the same video."""
    sampler = StepSampler(ShuffledOrder(num_videos), 0, batch_size, micro, 0, 1, range(3), repeats, spread=True)
    rows = [[row for row, _ in keys] for keys in sampler]
    return float(
        np.mean(
            [
                [row == micro_rows[p] for row, p in zip(micro_rows, augment.mirrored_places(micro), strict=True)]
                for micro_rows in rows
            ]
        )
    )


@pytest.mark.parametrize(
    ("micro", "repeats", "batch_size", "expected"),
    [
        (2, 2, 64, 0.0),
        (16, 2, 64, 0.0),
        (4, 4, 64, 0.0),
        (2, 4, 64, 0.0),
        (3, 2, 96, 0.0),
        (2, 2, 66, 0.0),
        (12, 3, 72, 0.0),
    ],
)
def test_a_micro_batch_of_less_than_two_videos_mixes_too(micro, repeats, batch_size, expected) -> None:
    assert same_video(micro, repeats, batch_size, 1000) == expected


def test_fine_tuning_in_micro_batches_of_two_clips_mixes_videos(tmp_path, monkeypatch) -> None:
    """data.repeats=2: with the two clips of a video in one micro batch no target would be mixed."""
    rng, rows = np.random.default_rng(0), [Row(f"{number}.mkv", number) for number in range(8)]
    for row in rows:
        write_video(tmp_path / row.path, rng.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8), 10)
    write_manifest(tmp_path, "toy", tmp_path, {"train": rows, "validation": rows}, [str(n) for n in range(8)])
    targets, plain = [], finetune_step.soft_cross_entropy
    monkeypatch.setattr(finetune_step, "soft_cross_entropy", lambda logits, t: targets.append(t) or plain(logits, t))
    keys = "data.num_frames=2 data.frame_size_px=[16,16] data.num_workers=0 data.repeats=2 model.patch_px=8 model.width=16 "
    keys += "model.depth=1 model.num_heads=1 optim.batch_size=8 engine.micro_batch_size=2 train.steps=6 engine.precision=fp32"
    places = [f"data.root={tmp_path}", f"train.output={tmp_path / 'run'}"]
    assert finetune(finetune_config(None, [*keys.split(), *places, "augment.cutmix_alpha=0"]))
    foreign = 1 - torch.cat(targets).max(1)[0] - 7 * 0.1 / 8
    assert len(foreign) == 6 * 8 and float((foreign < 0.01).float().mean()) < 0.15


def test_every_clip_of_a_step_is_there_once_however_it_is_split() -> None:
    def step_of(micro: int, world_size: int, spread: bool, start: int = 0) -> list[list[tuple[int, int]]]:
        samplers = [
            iter(StepSampler(ShuffledOrder(7), 3, 12, micro, rank, world_size, range(start, 4), 3, spread))
            for rank in range(world_size)
        ]
        rounds = 12 // (micro * world_size)
        return [sorted(k for _ in range(rounds) for s in samplers for k in next(s)) for _ in range(start, 4)]

    whole = step_of(12, 1, spread=False)
    for micro, world_size in ((2, 1), (2, 3), (4, 1), (1, 2), (6, 2)):
        assert step_of(micro, world_size, spread=True) == whole
    assert step_of(2, 1, True, start=2) == whole[2:]
    given = StepSampler(ShuffledOrder(7), 3, 12, 2, 0, 1, range(4), 3, True)
    every = list(given)
    given.num_given = 9  # a new iterator goes on behind them
    assert list(given) == every[9:] and len(given) == len(every) - 9
    big = [StepSampler(ShuffledOrder(7), 3, 12, 6, 0, 1, range(4), 3, spread) for spread in (False, True)]
    assert list(big[0]) == list(big[1])  # two videos are enough


def test_clips_that_are_dealt_out_stay_the_same_clips(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", rng.integers(0, 255, (12, 24, 32, 3), dtype=np.uint8), 10)
    config = DataConfig(root=str(tmp_path), num_frames=4, frame_size_px=[16, 16], num_workers=0, repeats=2)
    source = open_source(config, "train")

    def clips(micro: int, spread: bool) -> dict[int, set[bytes]]:
        dataset, found = ClipDataset(source, config, 0, training=True), {}
        for number, batch in enumerate(make_loader(dataset, 8, micro, 0, 1, 0, 0, 2, spread=spread)):
            step = found.setdefault(number * micro // 8, set())
            step |= {clip.contiguous().numpy().tobytes() for clip in batch.clip}
        return found

    assert clips(2, True) == clips(8, False) and len(clips(8, False)[0]) == 8


def test_a_cutmix_box_cuts_height_and_width_of_all_frames() -> None:
    """rand_bbox of mixup.py takes the last two sides of [B, C, T, H, W]."""
    clip = torch.arange(4).float().view(-1, 1, 1, 1, 1).expand(4, 3, 5, 12, 20).contiguous()
    for step in range(20):
        mixed, _ = mix(clip, torch.arange(4), 4, AugmentConfig(mixup_alpha=0.0), 0, step, BatchSlice(0, 4, 4))
        cut = mixed != clip
        assert torch.equal(cut, cut[:1, :1, :1].expand_as(cut))
        rows, columns = cut[0, 0, 0].any(1).sum(), cut[0, 0, 0].any(0).sum()
        assert rows * columns == cut[0, 0, 0].sum()
        assert torch.equal(mixed[cut], clip.flip(0)[cut])


def test_what_is_told_of_a_cutmix_box() -> None:
    """An earlier text said that VideoMAE cuts time and height, and that this was a departure."""
    page = Path(__file__).parents[2] / "docs" / "departures.md"
    for text in (lambda: str(mix.__doc__), lambda: page.read_text(encoding="utf-8")):
        told = " ".join(text().split())
        assert re.search(r"cutmix box cuts height and width,? over all frames", told) and "time and height" not in told

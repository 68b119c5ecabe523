"""What is drawn for a clip belongs to its generator, holds for all frames, and leaves torch's generator alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hpm_video.config import AugmentConfig, DataConfig
from hpm_video.config.load import describe_keys
from hpm_video.data.augment import (
    RandAugment,
    draw_erased_box,
    erase,
    make_finetune_transform,
    mix,
    smooth,
    view_boxes,
)
from hpm_video.data.transforms import center_box
from hpm_video.streams import MIX
from hpm_video.types import BatchSlice

DATA = DataConfig(root="nowhere", frame_size_px=[32, 48])
ALWAYS = AugmentConfig(op_probability=1.0)


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    """uint8 [H, W, 3]: coloured waves with edges, unlike their own mirror images."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / (5 + c) + c) * np.cos(y / (9 - c)) + 20 * (x > width // 3) for c in range(3)]
    return np.stack(waves, axis=-1).clip(0, 255).astype(np.uint8)


def still(num_frames: int = 4) -> np.ndarray:
    return np.repeat(picture()[None], num_frames, axis=0)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_clip_belongs_to_its_generator() -> None:
    transform = make_finetune_transform(DATA, ALWAYS, left_right=False)
    frames = rng(0).integers(0, 256, (4, 60, 80, 3), dtype=np.uint8)
    untouched = frames.copy()
    clips = [transform(frames, rng(seed)) for seed in range(12)]
    torch.rand(5)  # the global generator is elsewhere now
    again = [transform(frames, rng(seed)) for seed in range(12)]
    assert all(torch.equal(a, b) for a, b in zip(clips, again, strict=True))
    assert len({clip.numpy().tobytes() for clip in clips}) == 12
    assert all(c.dtype == torch.uint8 and c.shape == (3, 4, 32, 48) and c.is_contiguous() for c in clips)
    assert np.array_equal(frames, untouched)


@pytest.mark.parametrize("num_frames", [1, 5])
def test_all_frames_are_treated_alike(num_frames: int) -> None:
    transform = make_finetune_transform(DATA, ALWAYS, left_right=False)
    for seed in range(60):  # 240 operations: each of the 14 is missed with a probability of 2e-8
        clip = transform(still(num_frames), rng(seed))
        assert torch.equal(clip, clip[:, :1].expand_as(clip)), seed


def test_without_randaugment_it_is_crop_and_flip() -> None:
    plain = AugmentConfig(num_ops=0, crop_area=[1.0, 1.0])
    config = DataConfig(root="nowhere", frame_size_px=[60, 80])
    frames = rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    whole = torch.from_numpy(frames).permute(3, 0, 1, 2)
    kept, mirrored, seen = 0, 0, 0
    for seed in range(200):
        clip = make_finetune_transform(config, plain, left_right=False)(frames, rng(seed))
        straight = make_finetune_transform(config, plain, left_right=True)(frames, rng(seed))
        kept += torch.equal(clip, straight)
        mirrored += torch.equal(clip, straight.flip(-1))
        seen += torch.equal(straight, whole)
    assert kept + mirrored == 200 and 75 <= mirrored <= 125
    assert seen > 0  # an aspect that does not fit falls back to the whole frame, unmirrored


def num_mirrored(augment: AugmentConfig, left_right: bool) -> int:
    """Of 300 clips of a picture that brightens to the right, how many darken in the middle, where no grey moves in."""
    ramp = np.broadcast_to(np.linspace(30, 70, 80).astype(np.uint8)[None, None, :, None], (1, 60, 80, 3)).copy()
    config = DataConfig(root="nowhere", frame_size_px=[32, 48], flip=True)
    transform = make_finetune_transform(config, augment, left_right)
    clips = torch.stack([transform(ramp, rng(seed)) for seed in range(300)]).float()
    columns = clips[..., 12:20, 18:30].mean((1, 2, 3))
    return int((columns[:, 6:].mean(1) < columns[:, :6].mean(1)).sum())


def test_labels_that_know_left_and_right_are_never_mirrored() -> None:
    one_operation = AugmentConfig(num_ops=1, op_probability=1.0, magnitude_std=0.0)  # Solarize begins above 70
    for augment in (AugmentConfig(num_ops=0), one_operation):
        assert num_mirrored(augment, left_right=True) == 0
        assert 110 <= num_mirrored(augment, left_right=False) <= 190


def every_use_of_the_borrowed_generator() -> list[Callable[[], object]]:
    clip, label, place = torch.randn(4, 3, 2, 16, 16), torch.arange(4), BatchSlice(0, 4, 4)
    sure = AugmentConfig(erase_probability=1.0)
    return [
        lambda: make_finetune_transform(DATA, ALWAYS, left_right=False)(still(), rng(0)),
        lambda: erase(clip, sure, 0, 0, place),
        *(lambda s=step: mix(clip, label, 4, sure, 0, s, place) for step in range(6)),
    ]


def test_torch_global_generators_are_left_alone(monkeypatch) -> None:
    seeded_devices = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seeded_devices.append(seed))
    for use in every_use_of_the_borrowed_generator():
        before = torch.get_rng_state()
        use()
        assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), MIX.torch_global(3):
        torch.rand(1 // 0)
    assert torch.equal(torch.get_rng_state(), before) and not seeded_devices


def test_strengths_follow_the_configuration() -> None:
    drawn = [RandAugment(AugmentConfig()).draw_strengths(rng(seed)) for seed in range(1000)]
    counts, strengths = np.array([len(d) for d in drawn]), np.concatenate(drawn)
    assert abs(counts.mean() - 2.0) < 0.12 and counts.max() == 4 and counts.min() == 0  # 4 at 0.5; 3.8 sigma
    assert abs(strengths.mean() - 21.0) < 0.15 and abs(strengths.std() - 1.5) < 0.12  # 7 and 0.5 of 10, in steps of 30
    within = np.concatenate([d - np.mean(d) for d in drawn if len(d) > 1])
    assert within.std() > 1.0  # each operation has its own
    extreme = AugmentConfig(magnitude=10.0, magnitude_std=4.0, num_ops=400, op_probability=1.0)
    strengths = np.array(RandAugment(extreme).draw_strengths(rng(0)))
    assert strengths.max() == 30 and 0 <= strengths.min() < 20 and len(strengths) == 400


def test_strength_tells_in_the_picture() -> None:
    frames = torch.from_numpy(still(1)).permute(0, 3, 1, 2).contiguous()

    def change(magnitude: float) -> float:
        augment = RandAugment(AugmentConfig(num_ops=1, op_probability=1.0, magnitude=magnitude, magnitude_std=0.0))
        return float(np.mean([(augment(frames, rng(s)).float() - frames.float()).abs().mean() for s in range(150)]))

    none, half, full = change(0.0), change(5.0), change(10.0)
    assert none < 8 < half < full  # at 0 only AutoContrast and Equalize change anything


def erased(clip: Tensor, result: Tensor) -> Tensor:
    """bool [B, H, W]: where a clip was changed, after checking that it is in every channel and frame or in none."""
    changed = result != clip
    assert torch.equal(changed.all(2).all(1), changed.any(2).any(1))
    return changed.any(2).any(1)


def test_erasing_shares_sizes_and_noise() -> None:
    clip = torch.full((2000, 3, 2, 24, 32), 9.0)
    result = erase(clip, AugmentConfig(), 0, 5, BatchSlice(0, 2000, 2000))
    assert torch.equal(clip, torch.full_like(clip, 9.0))
    changed = erased(clip, result)
    hit = changed.flatten(1).any(1)
    assert abs(hit.float().mean() - 0.25) < 0.035  # 3.6 sigma
    heights, widths = changed[hit].any(2).sum(1), changed[hit].any(1).sum(1)
    assert torch.equal(heights * widths, changed[hit].flatten(1).sum(1))  # a full box
    area = heights * widths / (24 * 32)
    assert area.min() < 0.05 and 0.3 < area.max() < 0.36 and abs(area.mean() - 0.17) < 0.02
    assert (widths > 2 * heights).any() and (heights > 2 * widths).any()
    noise = result[result != 9.0]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    one = result[hit][area.argmax()]
    assert not torch.equal(one[0, 0], one[0, 1]) and not torch.equal(one[0, 0], one[1, 0])  # drawn for each value


def test_erasing_does_not_depend_on_the_split() -> None:
    clip = torch.randn(16, 3, 2, 16, 16)
    config = AugmentConfig(erase_probability=0.6)
    whole = erase(clip, config, 3, 7, BatchSlice(0, 16, 16))
    for size in (8, 4, 1):
        parts = [erase(clip[s : s + size], config, 3, 7, BatchSlice(s, s + size, 16)) for s in range(0, 16, size)]
        assert torch.equal(torch.cat(parts), whole)
    for seed, step in ((4, 7), (3, 8)):
        assert not torch.equal(
            erased(clip, erase(clip, config, seed, step, BatchSlice(0, 16, 16))), erased(clip, whole)
        )


def test_erasing_always_and_never() -> None:
    clip, place = torch.randn(8, 3, 2, 16, 16), BatchSlice(0, 8, 8)
    assert torch.equal(erase(clip, AugmentConfig(erase_probability=0.0), 0, 0, place), clip)
    assert erased(clip, erase(clip, AugmentConfig(erase_probability=1.0), 0, 0, place)).flatten(1).any(1).all()
    assert draw_erased_box(torch.zeros(3, 2, 1, 900), 1.0) is None  # every box is taller


MIXUP, CUTMIX = AugmentConfig(cutmix_alpha=0.0), AugmentConfig(mixup_alpha=0.0)


def constant_clips(num: int) -> Tensor:
    """Clip i is i everywhere, so that a value tells whose it is."""
    return torch.arange(num).float().view(-1, 1, 1, 1, 1).expand(num, 3, 2, 12, 20).contiguous()


def test_smoothed_targets() -> None:
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]])
    assert torch.allclose(smooth(torch.tensor([1, 3]), 4, 0.1), expected)
    assert torch.equal(smooth(torch.tensor([1]), 3, 0.0), torch.tensor([[0.0, 1.0, 0.0]]))


def test_mixup_by_hand() -> None:
    clip, label = constant_clips(4), torch.tensor([2, 0, 1, 1])
    shares = []
    for step in range(40):
        mixed, target = mix(clip, label, 3, MIXUP, 0, step, BatchSlice(0, 4, 4))
        share = 1 - float(mixed[0, 0, 0, 0, 0]) / 3  # clip 0 is share * 0 + (1 - share) * clip 3, which is 3
        shares.append(share)
        for i in range(4):
            assert torch.allclose(mixed[i], share * clip[i] + (1 - share) * clip[3 - i], atol=1e-6)
        one_of = smooth(label, 3, 0.1)
        assert torch.allclose(target, share * one_of + (1 - share) * one_of[[3, 2, 1, 0]], atol=1e-6)
        assert target.dtype == torch.float32 and torch.allclose(target.sum(1), torch.ones(4))
    assert abs(np.mean(shares) - 0.5) < 0.2 and np.std(shares) > 0.2 and len(set(shares)) == 40
    assert torch.equal(clip, constant_clips(4))


def test_cutmix_by_hand() -> None:
    clip, label = constant_clips(4), torch.arange(4)
    kept = []
    for step in range(40):
        mixed, target = mix(clip, label, 4, CUTMIX, 0, step, BatchSlice(0, 4, 4))
        foreign = erased(clip, mixed)  # the same box in all channels and frames
        assert torch.equal(foreign, foreign[:1].expand_as(foreign))  # and for all clips
        rows, columns = foreign[0].any(1).sum(), foreign[0].any(0).sum()
        assert rows * columns == foreign[0].sum()
        for i in range(4):
            assert torch.equal(mixed[i][:, :, foreign[i]], clip[3 - i][:, :, foreign[i]])
        kept.append(1 - float(foreign[0].float().mean()))
        one_of = smooth(label, 4, 0.1)
        assert torch.allclose(target, kept[-1] * one_of + (1 - kept[-1]) * one_of[[3, 2, 1, 0]], atol=1e-6)
        assert target.dtype == torch.float32 and torch.allclose(target.sum(1), torch.ones(4))
    assert np.std(kept) > 0.15 and len(set(kept)) > 15


def test_mixup_and_cutmix_take_turns() -> None:
    clip, label, place = constant_clips(2), torch.arange(2), BatchSlice(0, 2, 2)

    def num_cut(config: AugmentConfig) -> int:
        mixed = [mix(clip, label, 2, config, 0, step, place)[0] for step in range(200)]
        return sum(bool(torch.isin(m, torch.tensor([0.0, 1.0])).all()) for m in mixed)

    assert 70 <= num_cut(AugmentConfig()) <= 130
    assert num_cut(MIXUP) == 0 and num_cut(CUTMIX) == 200
    assert num_cut(AugmentConfig(cutmix_probability=0.0)) == 0


def test_mixing_belongs_to_seed_step_and_place() -> None:
    clip, label = torch.randn(3, 3, 2, 12, 20), torch.arange(3)

    def value(seed: int, step: int, start: int) -> Tensor:
        return mix(clip, label, 3, AugmentConfig(), seed, step, BatchSlice(start, start + 3, 9))[1]

    assert torch.equal(value(1, 2, 3), value(1, 2, 3))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 6)):
        assert not torch.equal(value(*other), value(1, 2, 3))


def test_nothing_is_mixed_where_both_are_off() -> None:
    clip, label = torch.randn(3, 3, 2, 8, 8), torch.tensor([0, 4, 2])
    mixed, target = mix(clip, label, 5, AugmentConfig(mixup_alpha=0.0, cutmix_alpha=0.0), 0, 0, BatchSlice(0, 3, 3))
    assert torch.equal(mixed, clip) and torch.equal(target, smooth(label, 5, 0.1))


@pytest.mark.parametrize(
    ("height", "width", "target", "tops", "lefts", "size"),
    [
        (240, 427, (224, 224), [0, 0, 0], [0, 93, 187], (240, 240)),
        (427, 240, (224, 224), [0, 93, 187], [0, 0, 0], (240, 240)),
        (100, 100, (224, 224), [0, 0, 0], [0, 0, 0], (100, 100)),
        (100, 200, (50, 200), [0, 25, 50], [0, 0, 0], (50, 200)),  # wider than tall, but less so than the target
    ],
)
def test_three_views_reach_from_end_to_end(height, width, target, tops, lefts, size) -> None:
    boxes = view_boxes(height, width, target, 3)
    assert [b.top for b in boxes] == tops and [b.left for b in boxes] == lefts
    assert all((b.height, b.width) == size for b in boxes)
    assert boxes[1] == center_box(height, width, target)


@pytest.mark.parametrize("num_crops", [1, 2, 3, 5, 10])
@pytest.mark.parametrize(("height", "width"), [(240, 427), (427, 241), (33, 47), (1080, 1920)])
def test_any_number_of_views(height: int, width: int, num_crops: int) -> None:
    boxes = view_boxes(height, width, (224, 224), num_crops)
    assert len(boxes) == num_crops
    if num_crops == 1:
        assert boxes == [center_box(height, width, (224, 224))]
        return
    assert boxes[0][:2] == (0, 0)
    assert (boxes[-1].top + boxes[-1].height, boxes[-1].left + boxes[-1].width) == (height, width)
    gaps = [b.top - a.top + b.left - a.left for a, b in zip(boxes, boxes[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_pretraining_does_not_know_these_keys() -> None:
    assert "mixup" not in describe_keys() and "erase" not in describe_keys()

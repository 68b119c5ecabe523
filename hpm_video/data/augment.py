"""Augmentation for fine-tuning, and the crops of multi-view tests.

In the loader, per clip, on uint8: random resized crop, RandAugment, flip. On the device, per micro batch, normalised: random
erasing, then mixup or cutmix. All as in VideoMAE's recipe, by torchvision; differences are named. torchvision draws from
torch's global generator, whose state is restored afterwards (`Stream.torch_global`).
"""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from hpm_video.config import AugmentConfig, DataConfig
from hpm_video.data.transforms import Box, Transform, center_box, cut, random_resized_box
from hpm_video.streams import ERASE_BOX, ERASE_NOISE, MIX, RAND_AUGMENT
from hpm_video.types import BatchSlice

NUM_BINS = 31  # torchvision's strengths 0 to 30 are timm's 0 to 10
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 3.3)


def make_finetune_transform(config: DataConfig, augment: AugmentConfig, left_right: bool) -> Transform:
    """Return a transform: frames uint8 [T, H, W, C] and a generator -> clip uint8 [C, T, H, W] of
    data.frame_size_px.

    left_right: the labels distinguish left from right, so that no clip is flipped.

    VideoMAE applies RandAugment to the decoded frames, before the crop. Here it is applied to the cropped, resized clip, which
    takes on one core about 21 instead of 50 ms for 16 frames of 256 x 340, 22 instead of 165 for 360 x 640. So translation is
    a share of the crop, histograms are those of the crop, and the grey fill cannot be cropped away.
    """
    target = (config.frame_size_px[0], config.frame_size_px[1])
    rand_augment = RandAugment(augment)

    def transform(frames: np.ndarray, rng: Generator) -> Tensor:
        height, width = frames.shape[1:3]
        clip = cut(frames, random_resized_box(height, width, target, augment.crop_area, rng), target)
        clip = rand_augment(clip.transpose(0, 1).contiguous(), rng).transpose(0, 1)
        flipped = augment.flip and not left_right and rng.random() < 0.5
        return (clip.flip(-1) if flipped else clip).contiguous()

    return transform


class RandAugment:
    """A few random operations, each with a random strength, the same for all frames of a clip.

    timm's rand-m7-n4-mstd0.5-inc1 with torchvision's operations. As in timm, `num_ops` are drawn with replacement, each is
    applied with `op_probability`, its strength is jittered and kept in 0..10 (here rounded to a third), and pixels from outside
    are grey. Differences: Invert and SolarizeAdd of timm's 15 operations are replaced by Identity; Posterize is weaker (strength
    7 keeps 5 bits, timm's 2); translation reaches 0.45 of the clip's own side; interpolation is bilinear, not bicubic. No
    operation flips.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.by_strength = [
            v2.RandAugment(1, strength, NUM_BINS, interpolation=v2.InterpolationMode.BILINEAR, fill=128)
            for strength in range(NUM_BINS)
        ]

    def __call__(self, frames: UInt8[Tensor, "T C H W"], rng: Generator) -> UInt8[Tensor, "T C H W"]:
        strengths = self.draw_strengths(rng)
        with RAND_AUGMENT.torch_global(int(rng.integers(2**63))):
            for strength in strengths:
                frames = self.by_strength[strength](frames)
        return frames

    def draw_strengths(self, rng: Generator) -> list[int]:
        """Draw the strengths (0 to 30) of the operations to apply, at most num_ops."""
        config = self.config
        applied = rng.random(config.num_ops) < config.op_probability
        magnitude = rng.normal(config.magnitude, config.magnitude_std, config.num_ops).clip(0, 10)
        return np.rint(magnitude[applied] * (NUM_BINS - 1) / 10).astype(int).tolist()


def erase(
    clip: Float[Tensor, "B C T H W"], config: AugmentConfig, seed: int, step: int, place: BatchSlice
) -> Float[Tensor, "B C T H W"]:
    """Fill a box of some normalised clips, the same in all frames, with normal noise per value.

    The draws follow from the seed, the step and the clip's place in the global batch, however the batch is split.
    """
    clip = clip.clone()
    for place_of_clip, one in enumerate(clip, start=place.start):
        with ERASE_BOX.torch_global(seed, step, place_of_clip):
            box = draw_erased_box(one, config.erase_probability)
        if box is not None:
            inside = one[..., box.top : box.top + box.height, box.left : box.left + box.width]
            noise = ERASE_NOISE.torch(clip.device, seed, step, place_of_clip)
            inside.copy_(torch.randn(inside.shape, generator=noise, device=clip.device))
    return clip


def draw_erased_box(clip: Float[Tensor, "C T H W"], probability: float) -> Box | None:
    """Draw a box; None if the clip stays unchanged, by chance or because no box fitted in ten tries."""
    if torch.rand(()) >= probability:
        return None
    drawn = v2.RandomErasing(scale=ERASED_AREA, ratio=ERASED_ASPECT).make_params([clip])
    return None if drawn["v"] is None else Box(drawn["i"], drawn["j"], drawn["h"], drawn["w"])


def mix(
    clip: Float[Tensor, "B C T H W"],
    label: Int[Tensor, " B"],
    num_classes: int,
    config: AugmentConfig,
    seed: int,
    step: int,
    place: BatchSlice,
) -> tuple[Float[Tensor, "B C T H W"], Float[Tensor, "B K"]]:
    """Return a micro batch after mixup or cutmix of clip i with clip B - 1 - i, and the soft targets, which sum to 1.

    The micro batch has one choice, share and box, which follow from the seed, the step and its start in the batch: another
    micro batch size mixes other clips. A cutmix box cuts height and width over all frames, and targets are mixed by the
    area that is really kept. All this is as in VideoMAE, which refuses odd micro batches; here the clip in the middle is mixed with the last one.
    A single clip stays unchanged.
    """
    target = smooth(label, num_classes, config.label_smoothing)
    with MIX.torch_global(seed, step, place.start):
        mixer = draw_mixer(config)
        if mixer is None:
            return clip, target
        drawn = mixer.make_params([clip.flatten(1, 2)])  # as images: [B, C * T, H, W]
    partner = clip[partners := mirrored_places(len(clip))]
    if "lam" in drawn:
        share, mixed = drawn["lam"], clip * drawn["lam"] + partner * (1 - drawn["lam"])
    else:
        (left, top, right, bottom), share = drawn["box"], drawn["lam_adjusted"]
        mixed = clip.clone()
        mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    return mixed, target * share + target[partners] * (1 - share)


def mirrored_places(num_clips: int) -> list[int]:
    """Return the partner of each clip of a micro batch.

    Not the neighbour: with data.repeats neighbours are often clips of one video, whose targets would stay unmixed.
    """
    places = list(reversed(range(num_clips)))
    if num_clips % 2:
        places[num_clips // 2] = num_clips - 1
    return places


def draw_mixer(config: AugmentConfig) -> v2.MixUp | v2.CutMix | None:
    """Draw mixup or cutmix; None if neither is on."""
    cuts = torch.rand(()) < config.cutmix_probability
    if config.cutmix_alpha > 0 and (cuts or config.mixup_alpha == 0):
        return v2.CutMix(alpha=config.cutmix_alpha)
    return v2.MixUp(alpha=config.mixup_alpha) if config.mixup_alpha > 0 else None


def smooth(label: Int[Tensor, " B"], num_classes: int, share: float) -> Float[Tensor, "B K"]:
    """Return targets in fp32: `share` spread over all classes, the rest on the label."""
    return one_hot(label, num_classes).float() * (1 - share) + share / num_classes


def view_boxes(height: int, width: int, target: tuple[int, int], num_crops: int) -> list[Box]:
    """Return the largest boxes of the target's shape, evenly spread along the frame's longer side; a single box is centered.

    The longer side is that of the frame scaled to the target's shape. If the shapes are the same, all boxes are equal.
    """
    middle = center_box(height, width, target)
    if num_crops == 1:
        return [middle]
    spare_height, spare_width = height - middle.height, width - middle.width
    return [
        middle._replace(top=spare_height * i // (num_crops - 1), left=spare_width * i // (num_crops - 1))
        for i in range(num_crops)
    ]

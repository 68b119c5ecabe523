"""Build whole training steps for timing: ours by preset, transformers' VideoMAE, and the published procedure without savings.

The last one (`NaivePort`) is the baseline: HPM for video must be cheaper than it.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpm_video.config import PretrainConfig, load_config
from hpm_video.config.geometry import Geometry
from hpm_video.method.masking.keys import draw_keys
from hpm_video.method.masking.strategies import mask_random
from hpm_video.method.masking.units import make_layout, to_tokens
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.pixels import make_target
from hpm_video.models.encoder import resolve_size
from hpm_video.models.student import Student, build_student
from hpm_video.streams import seeded
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.graphs import make_micro_steps
from hpm_video.types import Batch, BatchSlice

NOW, STEPS = 750, 1000  # three quarters through a run: alpha is .375 of .5
LR, MOMENTUM = 1e-5, 0.999
NUM_SAMPLES = 1000  # samples of the training data, for sources of difficulty that remember each sample


def make_config(size: str, frames: int, side: int, batch: int, keys: Sequence[str] = ()) -> PretrainConfig:
    """Return the config of a step: `frames` of `side` px, `batch` clips, plain engine without graphs."""
    given = ["data.root=none", "train.output=none", "engine.kind=plain", "engine.graphs=never", f"model.size={size}"]
    given += [f"data.num_frames={frames}", f"data.frame_size_px=[{side},{side}]", f"optim.batch_size={batch}"]
    return load_config(None, [*given, *keys])


def make_clip(config: PretrainConfig, device: torch.device) -> Tensor:
    """Return noise as a normalised clip [B, 3, T, H, W], stored as `Normalise` leaves clips: [B, T, H, W, 3]."""
    shape = (config.optim.batch_size, config.data.num_frames, *config.data.frame_size_px, 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).permute(0, 4, 1, 2, 3)


class OurStep:
    """Run a step of the training loop, without data and logs; with engine.graphs=auto as CUDA graphs if possible."""

    def __init__(self, config: PretrainConfig, device: torch.device, clip: Tensor | None = None) -> None:
        student = build_student(config)
        self.step = PretrainStep(config, student, device, NUM_SAMPLES)
        self.engine = PlainEngine(student, config, device)
        self.clip = make_clip(config, device) if clip is None else clip
        count = len(self.clip)
        self.batch = Batch(self.clip, torch.full((count,), -1), torch.arange(count) % NUM_SAMPLES)
        self.micro_steps = make_micro_steps(config, self.engine, self.step)

    def __call__(self) -> Tensor:
        count = self.clip.shape[0]
        result, journey = self.micro_steps.forward(self.clip, BatchSlice(0, count, count), NOW, STEPS, self.batch)
        self.micro_steps.backward(result.loss)
        self.step.observe(self.batch, journey)
        self.engine.step(LR)
        self.step.after_update(self.engine, NOW, STEPS)
        return result.loss.detach()


class HuggingFaceStep:
    """Run VideoMAEForPreTraining of transformers, with the same sizes, tube masks and optimizer."""

    def __init__(self, config: PretrainConfig, device: torch.device, clip: Tensor | None = None) -> None:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining

        model, size = config.model, resolve_size(config.model)
        settings = VideoMAEConfig(
            image_size=list(config.data.frame_size_px),
            patch_size=model.patch_px,
            num_frames=config.data.num_frames,
            tubelet_size=model.tubelet,
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.num_heads,
            intermediate_size=4 * size.width,
            decoder_num_hidden_layers=size.decoder_depth,
            decoder_hidden_size=size.decoder_width,
            decoder_num_attention_heads=size.decoder_heads,
            decoder_intermediate_size=4 * size.decoder_width,
            layer_norm_eps=1e-6,
            use_mean_pooling=False,
            norm_pix_loss=True,
        )
        self.layout, self.device, self.seed = make_layout(Geometry.of(config), device), device, config.train.seed
        clip = make_clip(config, device) if clip is None else clip
        self.clip = clip.contiguous()  # the layout that its convolution reads fastest
        self.engine = PlainEngine(VideoMAEForPreTraining(settings), config, device)

    def draw_mask(self) -> Tensor:
        """Return the mask, bool [B, N], True = hidden: the tubes that our mode random draws at this step."""
        units, num_masked = self.layout.units, self.layout.num_masked
        count = self.clip.shape[0]
        keys = draw_keys(BatchSlice(0, count, count), len(units), seeded(self.device, self.seed, NOW))
        return to_tokens(mask_random(keys, num_masked), units, num_masked).masked

    def __call__(self) -> Tensor:
        with self.engine.autocast():
            loss = self.engine.module(self.clip.transpose(1, 2), bool_masked_pos=self.draw_mask()).loss
        self.engine.backward(loss)
        self.engine.step(LR)
        return loss.detach()


class NaivePort:
    """Apply HPM's published image procedure (method: arXiv 2304.05919) to video, without saving any cost.

    The teacher sees every token and also runs its pixel decoder, whose result is unused. The mask is made clip by clip on the
    host. The ranking loss holds all pairs of masked tokens at once.
    """

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        self.config = config
        student = build_student(config)
        self.teacher = copy.deepcopy(student).to(device).eval().requires_grad_(False)
        self.engine, self.clip = PlainEngine(student, config, device), make_clip(config, device)
        self.rng = np.random.default_rng(0)

    def __call__(self) -> Tensor:
        clip = self.clip
        num_hard = int(0.5 * NOW / STEPS * Geometry.of(self.config).num_masked)
        with torch.no_grad(), self.engine.autocast():
            difficulty = look_at_everything(self.teacher, clip)
        masked = loop_masks(self.config, difficulty, num_hard, self.rng)  # [B, N]
        visible, hidden = ((~masked).nonzero()[:, 1].view(len(clip), -1), masked.nonzero()[:, 1].view(len(clip), -1))
        output = self.engine(clip, visible, hidden)
        target = make_target(
            clip, hidden, self.config.objective.target, self.config.model.tubelet, self.config.model.patch_px
        )
        true = (output.pixels - target.values).square().mean(-1)
        loss = true.mean() + all_pairs_loss(output.predicted_loss, true.detach())
        self.engine.backward(loss)
        self.engine.step(LR)
        own = dict(self.engine.module.named_parameters())
        with torch.no_grad():
            for name, parameter in self.teacher.named_parameters():
                parameter.mul_(MOMENTUM).add_(own[name], alpha=1 - MOMENTUM)
        return loss.detach()


def look_at_everything(teacher: Student, clip: Tensor) -> Tensor:
    """Return the predicted loss of every token [B, N]; the pixel decoder runs as well."""
    everything = torch.arange(teacher.encoder.num_tokens, device=clip.device).expand(len(clip), -1)
    latent = teacher.encoder(clip, everything)
    x = teacher._decoder_input(teacher.project(latent), everything, everything[:, :0])
    teacher.pixel_head(teacher.decoder(x))
    return teacher._score(x)


def loop_masks(config: PretrainConfig, difficulty: Tensor, num_hard: int, rng: np.random.Generator) -> Tensor:
    """Return masks, bool [B, N]: the hardest tubes of each clip, then random ones; on the host, as in the official image code."""
    layout = make_layout(Geometry.of(config), torch.device("cpu"))
    units, num_masked = layout.units.numpy(), layout.num_masked
    rows = []
    for clip in range(len(difficulty)):
        values = difficulty[clip].float().cpu().numpy()[units].mean(1)  # [U]
        order = np.argsort(-values)
        rest = rng.permutation(order[num_hard:])[: num_masked - num_hard]
        masked = np.zeros(units.size, dtype=bool)
        masked[units[np.concatenate([order[:num_hard], rest])]] = True
        rows.append(torch.from_numpy(masked))
    return torch.stack(rows).to(difficulty.device)


def all_pairs_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the ranking loss over [B, M, M] pairs."""
    margin = predicted.float()[:, :, None] - predicted.float()[:, None, :]
    harder, easier = (true[:, :, None] > true[:, None, :]).float(), (true[:, :, None] < true[:, None, :]).float()
    losses = -(harder * F.logsigmoid(margin) + easier * F.logsigmoid(-margin))
    return losses.sum() / (harder + easier).sum()


PRESETS = ("videomae", "random_half", "random_cross", "hpm", "hpm_teacher", "hpm_paper")
# the preset that matches the work of each step of `make_steps`
PRESET_OF = {"hf_videomae": "videomae", **{name: name for name in PRESETS}, "naive_port": "hpm_paper"}


def make_steps(
    size: str, frames: int, side: int, batch: int, keys: Sequence[str], device: torch.device
) -> dict[str, Any]:
    """Return every step by its name: the peer, ours, and the port of the published procedure."""

    def settings(preset: str) -> PretrainConfig:
        return make_config(size, frames, side, batch, [f"preset={preset}", *keys])

    steps: dict[str, Any] = {"hf_videomae": HuggingFaceStep(settings("videomae"), device)}
    steps |= {name: OurStep(settings(name), device) for name in PRESETS}
    return steps | {"naive_port": NaivePort(settings("hpm_paper"), device)}

"""Parameter groups of AdamW, and the learning rate of a step."""

import math

import torch
from torch import nn

from hpm_video.config import OptimConfig

BLOCKS = "encoder.stack.blocks."


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, decay_tokens: bool = False
) -> list[dict]:
    """Return the groups with weight decay and those without (biases, norms, positions; mask and class tokens unless
    `decay_tokens`). The learning rate of a step is multiplied by a group's `lr_scale`, see `lr_scales`."""
    single = ("positions.table",) if decay_tokens else ("mask_token", "cls_token", "positions.table")
    scales = lr_scales(model, layer_decay)
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        bare = parameter.ndim <= 1 or name.endswith(single)
        decay = 0.0 if bare else weight_decay
        new = {"weight_decay": decay, "lr_scale": scales[name], "params": []}
        groups.setdefault((-decay, scales[name]), new)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def lr_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return layer_decay ** (n + 1 - k) by parameter name, for n encoder blocks: k is 1 to n in the blocks, 0 before them and
    n + 1 after them (layer-wise decay: BEiT, arXiv 2106.08254, as VideoMAE uses it)."""
    names = [name for name, _ in model.named_parameters()]
    blocks = {name: int(name.split(BLOCKS)[1].split(".")[0]) + 1 for name in names if name.startswith(BLOCKS)}
    last = max(blocks.values(), default=0) + 1
    before = ("encoder.embed.", "encoder.positions.", "encoder.cls_token")
    return {name: layer_decay ** (last - (0 if name.startswith(before) else blocks.get(name, last))) for name in names}


def make_optimizer(model: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW over the groups of `parameter_groups`."""
    groups = parameter_groups(model, config.weight_decay, getattr(config, "layer_decay", 1.0), config.decay_tokens)
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.eps, fused=device.type in ("cpu", "cuda"))


def peak_lr(config: OptimConfig) -> float:
    """Return base_lr * batch_size / 256 (linear scaling, arXiv 1706.02677)."""
    return config.base_lr * config.batch_size / 256


def lr_at(step: int, steps: int, config: OptimConfig) -> float:
    """Return the learning rate: linear warm-up over `warmup_share` of the run, then a half cosine to min_lr; both
    scaled by batch_size / 256."""
    peak, floor = peak_lr(config), min(config.min_lr, config.base_lr) * config.batch_size / 256
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))

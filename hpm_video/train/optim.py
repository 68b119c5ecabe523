"""AdamW's groups and the learning rate of a step."""

import math

import torch
from torch import nn

from hpm_video.config import OptimConfig


def parameter_groups(student: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: with weight decay, and without (biases, norms, positions, mask and class tokens)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        bare = parameter.ndim <= 1 or name.endswith(("mask_token", "cls_token", "positions.table"))
        (plain if bare else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(student: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    groups = parameter_groups(student, config.weight_decay)
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.eps, fused=device.type == "cuda")


def peak_lr(config: OptimConfig) -> float:
    """lr = base_lr * batch_size / 256 (linear scaling, arXiv 1706.02677)."""
    return config.base_lr * config.batch_size / 256


def lr_at(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warm-up over `warmup_share` of the run, then a half cosine to min_lr; both scaled by batch_size / 256."""
    peak, floor = peak_lr(config), min(config.min_lr, config.base_lr) * config.batch_size / 256
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))

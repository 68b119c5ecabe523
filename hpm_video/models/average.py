"""Exponential moving average (EMA) of weights: the teacher of pretraining, and the averaged weights of fine-tuning."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_average(average: nn.Module, weight_groups: Iterable[Mapping[str, Tensor]], momentum: float) -> None:
    """Set average <- momentum * average + (1 - momentum) * weights, in fp32, one group of named weights after the other.

    Weights whose name is not in `average` are ignored.
    """
    own = dict(average.named_parameters())
    for group in weight_groups:
        names = [name for name in group if name in own]
        if names:
            torch._foreach_lerp_([own[n] for n in names], [group[n].float() for n in names], 1 - momentum)

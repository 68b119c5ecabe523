"""Losses: the reconstruction of the masked tokens, and the ranking of their difficulty. All in fp32."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hpm_video.config import ObjectiveConfig
from hpm_video.types import Losses, StudentOutput, Target

ROWS = 32  # rows of the pair matrix in memory at once


class _PairwiseRanking(torch.autograd.Function):
    """Sum over pairs in blocks of ROWS rows. The same pass forms the gradient, so memory is O(M) per clip.

    Tokens are sorted by their true loss, from hard to easy. Each is compared only with those behind it: half of the pairs.
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, true: Tensor) -> Tensor:
        total, count = predicted.new_zeros(predicted.shape[0]), predicted.new_zeros(predicted.shape[0])  # [B]
        order = true.argsort(dim=1, descending=True)
        true, predicted = true.gather(1, order), predicted.gather(1, order)
        gradient = torch.zeros_like(predicted)  # [B, M]
        for start in range(0, predicted.shape[1], ROWS):
            rows = slice(start, start + ROWS)
            harder = (
                true[:, rows, None] > true[:, None, start:]
            )  # [B, ROWS, M - start]; ties and the pair (i, i) are not
            margin = predicted[:, rows, None] - predicted[:, None, start:]  # should be large where harder
            total += torch.where(harder, F.softplus(-margin), 0.0).sum((1, 2))
            count += harder.sum((1, 2))
            pull = torch.where(harder, torch.sigmoid(-margin), 0.0)  # minus the derivative by the margin
            gradient[:, rows] -= pull.sum(2)
            gradient[:, start:] += pull.sum(1)
        count = count.clamp(min=1)  # all tied: 0, not 0 / 0
        gradient = torch.zeros_like(gradient).scatter_(1, order, gradient)  # as the predictions came
        ctx.save_for_backward(gradient / count[:, None])
        return total / count

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None], None


def relative_loss(predicted: Float[Tensor, "B K"], true: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean over the pairs with true_i > true_j of -log sigmoid(predicted_i - predicted_j) (HPM, arXiv 2304.05919).

    The paper sums over ordered pairs, where each pair occurs twice with the same value. Departure: the mean is taken per
    clip, then over clips (the official code: over all pairs of the batch), so that the loss does not depend on how the
    batch is split. Without ties the two are equal. A clip whose true losses all tie counts as 0.
    """
    return _PairwiseRanking.apply(predicted.float(), true.detach().float()).mean()


def absolute_loss(predicted: Float[Tensor, "B K"], true: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the squared error to the true losses, standardised within each clip by their unbiased variance (HPM, arXiv 2304.05919, and
    its code). A single loss counts as its mean."""
    true = true.detach().float()
    count = max(2, true.shape[1])
    mean = true.mean(1, keepdim=True)
    var = (true - mean).square().sum(1, keepdim=True) / (count - 1)
    return F.mse_loss(predicted.float(), (true - mean) / (var + 1e-6).sqrt())


def hpm_losses(
    output: StudentOutput,
    target: Target,
    objective: ObjectiveConfig,
    unit_size: int,
    weights: Float[Tensor, "B Q"] | None = None,
) -> Losses:
    """Return reconstruction + weight * ranking; the predictor's target is the detached reconstruction error of each token.

    unit_size: how many tokens of a unit are decoded; they stand beside each other. weights: of the tokens in the mean of the
    reconstruction; None = all 1.

    >>> student = hv.Student((3, 4, 16, 16), hv.Blocks(32, 2, 2), decoder=hv.Blocks(16, 1, 2), patch_px=8)
    >>> clip, decoded = torch.rand(1, 3, 4, 16, 16), torch.tensor([[1, 5, 2, 6]])
    >>> output = student(clip, torch.tensor([[0, 3, 4, 7]]), decoded)
    >>> target = hv.make_target(clip, decoded, "norm_channel", tubelet=2, patch=8)
    >>> losses = hv.hpm_losses(output, target, hv.ObjectiveConfig(), unit_size=2)
    >>> losses.total.backward()
    >>> bool(losses.pixel > 0 and losses.ranking > 0)
    True
    """
    patch_loss = F.mse_loss(output.pixels.float(), target.values, reduction="none").mean(-1)  # [B, Q]
    pixel = patch_loss.mean() if weights is None else (weights * patch_loss).mean()
    if output.predicted_loss is None:
        return Losses(pixel, pixel, torch.zeros_like(pixel), patch_loss.detach())
    predicted, true = output.predicted_loss, patch_loss.detach()
    if objective.level == "unit":
        predicted, true = (x.unflatten(1, (-1, unit_size)).mean(-1) for x in (predicted, true))  # [B, num_masked]
    ranking = (relative_loss if objective.ranking == "relative" else absolute_loss)(predicted, true)
    return Losses(pixel + objective.ranking_weight * ranking, pixel, ranking, patch_loss.detach())


def rank_correlation(predicted: Float[Tensor, "B K"], true: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return Spearman's correlation of each clip, averaged over clips; ties are ranked in order of place."""
    ranks = torch.stack([x.float().argsort(dim=1).argsort(dim=1).float() for x in (predicted, true)])  # [2, B, K]
    ranks = ranks - ranks.mean(-1, keepdim=True)
    return F.cosine_similarity(ranks[0], ranks[1], dim=-1).mean()

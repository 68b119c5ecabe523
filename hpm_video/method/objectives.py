"""Losses, all in fp32: the reconstruction of the decoded tokens (MAE), and the ranking of their difficulty (HPM)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hpm_video.config import ObjectiveConfig
from hpm_video.types import Losses, StudentOutput, Target

ROWS = 32  # rows of the pair matrix in memory at once


class _PairwiseRanking(torch.autograd.Function):
    """Compute the ranking loss of each clip, ROWS rows of the pair matrix at a time.

    The forward pass also computes the gradient, so memory is O(M) per clip. Tokens are sorted by true loss, from hard to easy,
    and each is compared only with those after it: half of the pairs.
    """

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, true: Tensor) -> Tensor:
        total, count = predicted.new_zeros(predicted.shape[0]), predicted.new_zeros(predicted.shape[0])  # [B]
        order = true.argsort(dim=1, descending=True)
        true, predicted = true.gather(1, order), predicted.gather(1, order)
        gradient = torch.zeros_like(predicted)  # [B, M]
        for start in range(0, predicted.shape[1], ROWS):
            rows = slice(start, start + ROWS)
            # [B, ROWS, M - start]; False for ties and for the pair (i, i)
            harder = true[:, rows, None] > true[:, None, start:]
            margin = predicted[:, rows, None] - predicted[:, None, start:]  # training makes it large where `harder`
            total += torch.where(harder, F.softplus(-margin), 0.0).sum((1, 2))
            count += harder.sum((1, 2))
            pull = torch.where(harder, torch.sigmoid(-margin), 0.0)  # minus the derivative by the margin
            gradient[:, rows] -= pull.sum(2)
            gradient[:, start:] += pull.sum(1)
        count = count.clamp(min=1)  # a clip with only ties: 0, not 0 / 0
        gradient = torch.zeros_like(gradient).scatter_(1, order, gradient)  # back in the order of the predictions
        ctx.save_for_backward(gradient / count[:, None])
        return total / count

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None], None


def relative_loss(predicted: Float[Tensor, "B K"], true: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean of -log sigmoid(predicted_i - predicted_j) over the pairs with true_i > true_j (HPM, arXiv 2304.05919,
    its relative loss). No gradient flows to `true`.

    The paper sums over ordered pairs, so each pair occurs twice with the same value. Departure from the official code, which
    takes one mean over all pairs of the batch: here it is the mean per clip, then over clips. So the loss does not depend on
    how the batch is split. Without ties the two are equal. A clip in which all true losses tie counts as 0.
    """
    return _PairwiseRanking.apply(predicted.float(), true.detach().float()).mean()


def absolute_loss(predicted: Float[Tensor, "B K"], true: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean squared error between the predictions and the standardised true losses (HPM, arXiv 2304.05919, its
    absolute loss). No gradient flows to `true`.

    The true losses of each clip are standardised with their mean and unbiased variance, as in the official code. With K = 1
    the standardised loss is 0.
    """
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
    """Return the total loss, reconstruction + objective.ranking_weight * ranking, and its parts.

    The reconstruction loss of a token is its mean squared error over P values (MAE); detached, it is the target of the loss
    predictor (HPM, arXiv 2304.05919). Without a predictor (output.predicted_loss is None) the ranking loss is 0.

    unit_size: decoded tokens of each unit; they are adjacent in the Q decoded tokens. objective.level=unit ranks the means over
    units instead of single tokens. weights: weights of the tokens in the mean of the reconstruction losses; None = all 1.

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
    """Return Spearman's rank correlation over the K values of each clip, averaged over clips. Ties are ranked in their order."""
    ranks = torch.stack([x.float().argsort(dim=1).argsort(dim=1).float() for x in (predicted, true)])  # [2, B, K]
    ranks = ranks - ranks.mean(-1, keepdim=True)
    return F.cosine_similarity(ranks[0], ranks[1], dim=-1).mean()

"""Train an attentive probe (V-JEPA, arXiv 2404.08471, and V-JEPA 2, arXiv 2506.09985): a learned query attends to all tokens.

Masked autoencoders spread information over tokens, and a mean over tokens loses much of it. The encoder is frozen and
clips are not augmented. Each learning rate trains its own head. All heads train at once, so tokens are computed or read
once for all of them.
"""

import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hpm_video.evals.frozen.features import autocast, find_device
from hpm_video.evals.metrics import Answers
from hpm_video.models.layers import NORM_EPS, reset_weights

log = logging.getLogger("hpm_video")
LRS = (1e-4, 3e-4, 1e-3, 3e-3)  # each has its own head
WEIGHT_DECAY, WARMUP_SHARE, BATCH_SIZE, EPOCHS = 0.01, 0.05, 32, 20
HELD_BACK = 0.1  # share of the training rows that choose the learning rate; no head trains on them
Batches = Iterator[tuple[Int[ndarray, " B"], Float[Tensor, "B L D"]]]  # rows, tokens
ReadTokens = Callable[[Int[ndarray, " n"]], Batches]  # rows -> the tokens of the readable rows, in the same order


class AttentiveHead(nn.Module):
    """Cross-attention of one query over the tokens, then an MLP (both residual, with a LayerNorm before), then a linear layer."""

    def __init__(self, width: int, num_heads: int, num_classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm_tokens, self.norm_query = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.linear = nn.Linear(width, num_classes)
        reset_weights(self)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B K"]:
        tokens = self.norm_tokens(tokens)
        seen, _ = self.attention(self.query.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        x = self.query + seen  # [B, 1, D]
        return self.linear((x + self.mlp(self.norm_query(x)))[:, 0]).float()


class AttentiveFit(NamedTuple):
    """The heads, one for each value of LRS, and their accuracy on the held-back rows."""

    heads: nn.ModuleList
    held_back: dict[float, float]  # learning rate -> accuracy

    @property
    def lr(self) -> float:
        """Return the best learning rate; the smallest one if several are best."""
        return max(self.held_back, key=lambda lr: (self.held_back[lr], -lr))

    def scores(self, read: ReadTokens, rows: Int[ndarray, " m"]) -> tuple[Int[ndarray, " n"], Float[ndarray, "n K"]]:
        """Return the readable rows, and their class scores by the best head."""
        found, scores = predict(self.heads, read, rows)
        return found, scores[list(self.held_back).index(self.lr)]


def fit_attentive(  # noqa: PLR0913
    read: ReadTokens,
    labels: Int[ndarray, " n"],
    back: Bool[ndarray, " n"],
    width: int,
    num_heads: int,
    num_classes: int,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> AttentiveFit:
    """Train the heads on the rows that are not held back: AdamW, a warm-up and a cosine to 0, no dropout.

    labels: of all rows 0 to n - 1 that `read` knows; rows with -1 are not used. back: True for rows that are held back.
    """
    device = find_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleList(AttentiveHead(width, num_heads, num_classes) for _ in LRS).to(device)
    groups = [{"params": list(h.parameters()), "lr": lr, "top": lr} for h, lr in zip(heads, LRS, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    rows = np.flatnonzero(~back & (labels >= 0))
    steps = epochs * -(-len(rows) // BATCH_SIZE)
    step = 0
    for epoch in range(epochs):
        total, count = torch.zeros(len(LRS), device=device), 0
        for found, tokens in read(np.random.default_rng([seed, epoch]).permutation(rows)):
            for group in optimizer.param_groups:
                group["lr"] = group["top"] * lr_share(step, steps)
            losses = _losses(heads, tokens.to(device), torch.from_numpy(labels[found]).to(device))
            optimizer.zero_grad()
            losses.sum().backward()  # no weight belongs to two heads
            optimizer.step()
            total, count, step = total + losses.detach() * len(found), count + len(found), step + 1
        losses_text = ", ".join(
            f"{lr:g}: {loss:.3f}" for lr, loss in zip(LRS, (total / max(1, count)).tolist(), strict=True)
        )
        log.info("attentive probe, epoch %d of %d, loss by learning rate: %s", epoch + 1, epochs, losses_text)
    found, scores = predict(heads, read, np.flatnonzero(back & (labels >= 0)))
    right = [Answers(scores=of_head, labels=labels[found]).accuracy() if len(found) else 0.0 for of_head in scores]
    return AttentiveFit(heads, dict(zip(LRS, right, strict=True)))


def _losses(heads: nn.ModuleList, tokens: Float[Tensor, "B L D"], labels: Int[Tensor, " B"]) -> Float[Tensor, " G"]:
    with autocast(tokens.device):
        return torch.stack([cross_entropy(head(tokens), labels) for head in heads])


@torch.no_grad()
def predict(
    heads: nn.ModuleList, read: ReadTokens, rows: Int[ndarray, " m"]
) -> tuple[Int[ndarray, " n"], Float[ndarray, "G n K"]]:
    """Return the readable rows, and their class scores by each head."""
    device, found, scores = find_device(), [np.empty(0, np.int64)], []
    for some, tokens in read(rows):
        with autocast(device):
            scores.append(torch.stack([head(tokens.to(device)) for head in heads]).cpu().numpy())
        found.append(some)
    together = np.concatenate(scores, axis=1) if scores else np.zeros((len(heads), 0, 1), np.float32)
    return np.concatenate(found), together


def lr_share(step: int, steps: int) -> float:
    """Return the factor of the learning rate: a linear warm-up over WARMUP_SHARE of the steps, then half a cosine to 0."""
    warmup = max(1.0, WARMUP_SHARE * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))

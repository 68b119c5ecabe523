"""The classifier: an encoder with a linear head, which fine-tuning trains (MAE, VideoMAE)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config import FinetuneConfig
from hpm_video.models.encoder import Encoder, encoder_arguments
from hpm_video.models.layers import NORM_EPS, VIT_B, Blocks, reset_weights


class Classifier(nn.Module):
    """Classify clips: [B, C, T, H, W] -> logits [B, num_classes] in fp32. Every token is visible.

    pooling=mean: blocks -> mean over the tokens -> norm -> dropout -> linear, without the encoder's final norm (VideoMAE, MAE).
    pooling=cls: blocks -> the encoder's final norm -> class token -> dropout -> linear (ViT); it needs cls_token=True.
    head_init: the factor by which the initial weights of the head are scaled. `encoder`: further arguments of `Encoder`.
    Raises UserError as `Encoder` does.

    >>> hv.Classifier((3, 4, 16, 16), 7, hv.Blocks(32, 2, 2), patch_px=8)(torch.zeros(5, 3, 4, 16, 16)).shape
    torch.Size([5, 7])
    """

    def __init__(
        self,
        clip_shape: tuple[int, int, int, int],
        num_classes: int,
        blocks: Blocks = VIT_B,
        *,
        pooling: str = "mean",
        head_init: float = 1e-3,
        head_dropout: float = 0.0,
        **encoder: Any,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(clip_shape, blocks, **encoder)
        self.num_classes, self.pooling = num_classes, pooling
        self.norm: nn.Module = nn.Identity()
        if pooling == "mean":
            self.encoder.stack.norm = nn.Identity()
            self.norm = nn.LayerNorm(blocks.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(head_dropout)  # draws nothing at 0
        self.head = nn.Linear(blocks.width, num_classes)
        reset_weights(self)
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            self.head.weight.mul_(head_init)

    @classmethod
    def of(cls, config: FinetuneConfig, num_classes: int) -> "Classifier":
        """Return the classifier of a fine-tuning configuration. Raises UserError if its sizes do not fit together."""
        return cls(
            num_classes=num_classes,
            pooling=config.model.pooling,
            head_init=config.model.head_init,
            head_dropout=config.model.head_dropout,
            **encoder_arguments(config),
        )

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B K"]:
        tokens = self.encoder(clip)  # [B, N, D], or [B, 1 + N, D] with a class token first
        pooled = tokens[:, 0] if self.pooling == "cls" else tokens[:, -self.encoder.num_tokens :].mean(1)
        return self.head(self.dropout(self.norm(pooled))).float()

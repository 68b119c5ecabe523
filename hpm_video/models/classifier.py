"""An encoder with a head: what fine-tuning trains."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config import FinetuneConfig
from hpm_video.models.encoder import Encoder
from hpm_video.models.layers import NORM_EPS, reset_weights


class Classifier(nn.Module):
    """[B, C, T, H, W] -> logits [B, num_classes] in fp32; every token is seen.

    pooling mean: blocks -> mean over the tokens -> norm -> dropout -> linear, the encoder's own last norm left out (VideoMAE).
    pooling cls: blocks -> the encoder's norm -> class token -> linear (ViT's; MAE too fine-tunes with the mean).
    """

    def __init__(self, config: FinetuneConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.num_classes, self.pooling = num_classes, config.model.pooling
        self.norm: nn.Module = nn.Identity()
        if self.pooling == "mean":
            self.encoder.stack.norm = nn.Identity()
            self.norm = nn.LayerNorm(self.encoder.width, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.model.head_dropout)  # draws nothing at 0
        self.head = nn.Linear(self.encoder.width, num_classes)
        reset_weights(self)
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            self.head.weight.mul_(config.model.head_init)

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B K"]:
        tokens = self.encoder(clip)  # [B, N, D], a class token first where there is one
        pooled = tokens[:, 0] if self.pooling == "cls" else tokens[:, -self.encoder.num_tokens :].mean(1)
        return self.head(self.dropout(self.norm(pooled))).float()

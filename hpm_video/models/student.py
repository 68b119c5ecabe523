"""Encoder, pixel decoder and loss predictor (HPM, arXiv 2304.05919). The teacher is a copy of this."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config import PretrainConfig, position_grid
from hpm_video.models.encoder import Encoder, resolve_size
from hpm_video.models.layers import BlockStack, reset_weights
from hpm_video.models.tokens import Positions
from hpm_video.types import StudentOutput

FEATURE_WIDTH = {"dino": 768, "clip": 768}  # of ViT-B/16


def target_width(config: PretrainConfig) -> int:
    """P: how many numbers are predicted of a token, its pixel values or its features."""
    target, model = config.objective.target, config.model
    if target == "teacher_features":
        return resolve_size(model).width
    return FEATURE_WIDTH.get(target, model.tubelet * model.patch_px**2 * 3)


class Student(nn.Module):
    """Encoder, projection and mask token are shared by the two decoders; no block is (as in the official code).

    The predictor has a scalar head. The official one has patch * patch * 3 outputs whose mean is used: the same function.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        model, size = config.model, resolve_size(config.model)
        self.encoder = Encoder(config)
        self.project = nn.Linear(size.width, size.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size.decoder_width))
        grid, made_for = self.encoder.grid, position_grid(config)
        self.positions = Positions(model.positions, grid, size.decoder_width, made_for)
        self.decoder = BlockStack(size.decoder_width, model.decoder_depth, size.decoder_heads, 0.0, model.checkpointing)
        self.pixel_head = nn.Linear(size.decoder_width, target_width(config))
        self.ranking_reaches_encoder = config.objective.ranking_reaches_encoder
        self.predictor: BlockStack | None = None
        if config.mask.mode != "random":
            self.predictor = BlockStack(
                size.decoder_width, model.predictor_depth, size.decoder_heads, 0.0, model.checkpointing
            )
            self.loss_head = nn.Linear(size.decoder_width, 1)
        reset_weights(self)

    def forward(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], hidden: Int[Tensor, "B M"]
    ) -> StudentOutput:
        """Predictions for the hidden tokens, in the order of `hidden`, in fp32."""
        latent = self.encoder(clip, visible)  # [B, V, D], a class token first where there is one
        x = self._decoder_input(latent, visible, hidden)  # [B, V + M, D']
        num_hidden = hidden.shape[1]
        pixels = self.pixel_head(self.decoder(x)[:, -num_hidden:])  # [B, M, P]
        predicted_loss = None
        if self.predictor is not None:
            seen = x if self.ranking_reaches_encoder else x.detach()
            predicted_loss = self.loss_head(self.predictor(seen)[:, -num_hidden:]).squeeze(-1).float()  # [B, M]
        return StudentOutput(pixels.float(), predicted_loss, latent)

    def predict_loss(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], hidden: Int[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B M"]]:
        """Predicted loss of the visible and of the hidden tokens (M may be 0); the pixel decoder does not run."""
        assert self.predictor is not None, "a student of mask.mode=random has no predictor"
        latent = self.encoder(clip, visible)
        scores = self.loss_head(self.predictor(self._decoder_input(latent, visible, hidden))).squeeze(-1).float()
        num_extra = scores.shape[1] - visible.shape[1] - hidden.shape[1]  # a class token
        return scores[:, num_extra : num_extra + visible.shape[1]], scores[:, num_extra + visible.shape[1] :]

    def _decoder_input(self, latent: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        context = self.project(latent)
        places = self.positions(visible)
        if context.shape[1] > visible.shape[1]:  # a class token has no place
            places = torch.cat([torch.zeros_like(places[:, :1]), places], dim=1)
        queries = self.mask_token + self.positions(hidden)
        return torch.cat([context + places, queries.to(context.dtype)], dim=1)

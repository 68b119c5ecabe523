"""Encoder, pixel decoder and loss predictor (HPM, arXiv 2304.05919). The teacher is a copy of this."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import position_grid
from hpm_video.config.needs import trains_predictor
from hpm_video.errors import UserError
from hpm_video.models.encoder import Encoder, resolve_size
from hpm_video.models.layers import NORM_EPS, BlockStack, reset_weights
from hpm_video.models.tokens import Positions
from hpm_video.streams import first_weights
from hpm_video.types import StudentOutput


def target_width(config: PretrainConfig) -> int:
    """Return P: how many numbers are predicted of a token, its pixel values or its features."""
    return TARGETS[config.objective.target].width(config, resolve_size(config.model).width)


class Student(nn.Module):
    """Encoder, projection and mask token are shared by the two decoders; no block is (as in the official code), unless
    model.predictor_shared_depth says so.

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
        make_blocks = partial(
            BlockStack,
            size.decoder_width,
            num_heads=size.decoder_heads,
            checkpointing=model.checkpointing,
            mlp_ratio=size.mlp_ratio,
        )
        self.decoder = make_blocks(depth=size.decoder_depth)
        self.pixel_head = nn.Linear(size.decoder_width, target_width(config))
        self.ranking_reaches_encoder = config.objective.ranking_reaches_encoder
        self.shared_depth, self.early_depth = model.predictor_shared_depth, model.predictor_encoder_depth
        if self.shared_depth > size.decoder_depth:
            raise UserError(
                f"model.predictor_shared_depth: {self.shared_depth}; expected at most model.decoder_depth {size.decoder_depth}"
            )
        if self.early_depth is not None and self.early_depth > size.depth:
            raise UserError(
                f"model.predictor_encoder_depth: {self.early_depth}; expected at most model.depth {size.depth}"
            )
        self.predictor: BlockStack | None = None
        if trains_predictor(config):
            depth = size.decoder_depth if model.predictor_depth is None else model.predictor_depth
            self.predictor = make_blocks(depth=depth)
            self.loss_head = nn.Linear(size.decoder_width, 1)
            if self.early_depth is not None:
                self.early_norm = nn.LayerNorm(size.width, eps=NORM_EPS)
                self.early_project = nn.Linear(size.width, size.decoder_width, bias=False)
        reset_weights(self)
        if model.first_weights == "videomae":
            self._reset_as_videomae()
        elif model.first_weights == "hpm" and self.predictor is not None:
            rows = torch.empty(model.tubelet * model.patch_px**2 * 3, size.decoder_width)
            with torch.no_grad():
                self.loss_head.weight.copy_(nn.init.xavier_uniform_(rows).mean(0, keepdim=True))

    def _reset_as_videomae(self) -> None:
        """What VideoMAE's code leaves as torch makes it, and its mask token: N(0, 0.02) cut at one standard deviation."""
        self.encoder.embed.linear.reset_parameters()
        self.project.reset_parameters()
        for token in (self.mask_token, self.encoder.cls_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], decoded: Int[Tensor, "B Q"]
    ) -> StudentOutput:
        """Predictions for the tokens `decoded`, in their order, in fp32."""
        if self.early_depth is None:
            latent, early = self.encoder(clip, visible), None
        else:
            latent, early = self.encoder(clip, visible, self.early_depth)
        x = self._decoder_input(self.project(latent), visible, decoded)  # [B, V + Q, D']
        shared = self.decoder.run_blocks(x, 0, self.shared_depth)
        pixels = self.pixel_head(self.decoder(shared, self.shared_depth)[:, -decoded.shape[1] :])  # [B, Q, P]
        predicted_loss = None
        if self.predictor is not None:
            source = shared if early is None else early
            source = source if self.ranking_reaches_encoder else source.detach()
            seen = source if early is None else self._early_input(source, visible, decoded)
            predicted_loss = self._score(self.predictor(seen)[:, -decoded.shape[1] :])
        return StudentOutput(pixels.float(), predicted_loss, latent)

    def predict_loss(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], decoded: Int[Tensor, "B Q"]
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B Q"]]:
        """Predicted loss of the visible tokens and of `decoded` (Q may be 0). Runs what the predictor stands on, no more."""
        assert self.predictor is not None, "a student without mined masks has no predictor"
        if self.early_depth is not None:
            seen = self._early_input(self.encoder.encode_early(clip, visible, self.early_depth), visible, decoded)
        else:
            seen = self._decoder_input(self.project(self.encoder(clip, visible)), visible, decoded)
            seen = self.decoder.run_blocks(seen, 0, self.shared_depth)
        scores = self._score(self.predictor(seen))
        num_extra = scores.shape[1] - visible.shape[1] - decoded.shape[1]  # a class token
        return scores[:, num_extra : num_extra + visible.shape[1]], scores[:, num_extra + visible.shape[1] :]

    def drop_pixel_decoder(self) -> None:
        """Of a teacher: what `predict_loss` does not run."""
        del self.pixel_head, self.decoder.norm, self.decoder.blocks[self.shared_depth :]

    def _score(self, states: Tensor) -> Float[Tensor, "B L"]:
        return self.loss_head(states).squeeze(-1).float()

    def _early_input(self, early: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
        return self._decoder_input(self.early_project(self.early_norm(early)), visible, decoded)

    def _decoder_input(self, context: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
        places = self.positions(visible)
        if context.shape[1] > visible.shape[1]:  # a class token has no place
            places = torch.cat([torch.zeros_like(places[:, :1]), places], dim=1)
        queries = self.mask_token + self.positions(decoded)
        return torch.cat([context + places, queries.to(context.dtype)], dim=1)


def build_student(config: PretrainConfig) -> Student:
    """The student as every run with this seed starts: the same on every rank and for every engine."""
    with first_weights(config.train.seed):
        return Student(config)

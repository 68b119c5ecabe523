"""The student: MAE's encoder and pixel decoder, and HPM's loss predictor (arXiv 2304.05919). The teacher is a copy of it."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.config import PretrainConfig
from hpm_video.config.checks import check_shared_depth
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Geometry
from hpm_video.config.needs import trains_predictor
from hpm_video.errors import UserError
from hpm_video.models.cross_attention import CrossStack
from hpm_video.models.encoder import Encoder, encoder_arguments, resolve_size
from hpm_video.models.layers import DECODER_B, VIT_B, Blocks, BlockStack, reset_weights
from hpm_video.models.loss_predictor import PREDICTOR, LossPredictor, Predictor
from hpm_video.models.tokens import Positions
from hpm_video.streams import first_weights as seeded_weights
from hpm_video.types import StudentOutput

DECODERS: dict[str, type[BlockStack]] = {"self": BlockStack, "cross": CrossStack}  # by model.decoder_attention


def target_width(config: PretrainConfig) -> int:
    """Return P, the number of values that are predicted for a token: its pixels or its features."""
    width = TARGETS[config.objective.target].width
    if width is None:
        return Geometry.of(config).values_per_token
    return width(config, resolve_size(config.model).width)


class Student(LossPredictor):
    """Predict the pixels (or features) of hidden tokens, and their reconstruction losses.

    Pixel decoder and loss predictor share the encoder, the projection and the mask token; they share blocks only with
    predictor.shared_depth above 0 (the official code shares none). num_outputs: P, predicted values of a token; None = its
    pixel values. first_weights: mae, videomae or hpm, as in model.first_weights. decoder_attention: self (MAE), or cross: mask
    tokens attend only to the visible tokens (CrossMAE). `encoder`: further arguments of `Encoder`. Raises UserError if the
    predictor needs more blocks than encoder or decoder have, or shares blocks of a cross-attention decoder.

    >>> student = hv.Student((3, 4, 16, 16), hv.Blocks(32, 2, 2), decoder=hv.Blocks(16, 1, 2), patch_px=8)
    >>> visible, decoded = torch.tensor([[0, 4]]), torch.tensor([[1, 2, 3, 5, 6, 7]])
    >>> output = student(torch.zeros(1, 3, 4, 16, 16), visible, decoded)
    >>> output.pixels.shape, output.predicted_loss.shape, output.latent.shape
    (torch.Size([1, 6, 384]), torch.Size([1, 6]), torch.Size([1, 2, 32]))
    """

    def __init__(
        self,
        clip_shape: tuple[int, int, int, int],
        blocks: Blocks = VIT_B,
        *,
        decoder: Blocks = DECODER_B,
        predictor: Predictor = PREDICTOR,
        num_outputs: int | None = None,
        first_weights: str = "mae",
        decoder_attention: str = "self",
        **encoder: Any,
    ) -> None:
        super().__init__()
        _check_depths(predictor, blocks, decoder, decoder_attention)
        self.encoder = Encoder(clip_shape, blocks, **encoder)
        self.project = nn.Linear(blocks.width, decoder.width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        geometry = self.encoder.geometry
        self.positions = Positions(self.encoder.positions.kind, geometry.grid, decoder.width, geometry.position_grid)
        self.decoder = DECODERS[decoder_attention](decoder)
        self.pixel_head = nn.Linear(decoder.width, num_outputs or geometry.values_per_token)
        self._add_predictor(predictor, decoder, blocks.width)
        reset_weights(self)
        if first_weights == "videomae":
            self._reset_as_videomae()
        elif first_weights == "hpm" and self.predictor is not None:
            self._reset_loss_head(geometry.values_per_token)

    @classmethod
    def of(cls, config: PretrainConfig) -> "Student":
        """Return the student of a configuration. Raises UserError if its sizes do not fit together."""
        model, size = config.model, resolve_size(config.model)
        depth = size.decoder_depth if model.predictor_depth is None else model.predictor_depth
        return cls(
            decoder=Blocks(
                *(size.decoder_width, size.decoder_depth, size.decoder_heads, size.mlp_ratio),
                checkpointing=model.checkpointing,
            ),
            predictor=Predictor(
                depth if trains_predictor(config) else None,
                model.predictor_encoder_depth,
                model.predictor_shared_depth,
                config.objective.ranking_reaches_encoder,
            ),
            num_outputs=target_width(config),
            first_weights=model.first_weights,
            decoder_attention=model.decoder_attention,
            **encoder_arguments(config),
        )

    def _reset_as_videomae(self) -> None:
        """Initialise as VideoMAE's code does: embedding and projection with torch's default, tokens from N(0, 0.02) truncated at
        one standard deviation."""
        self.encoder.embed.linear.reset_parameters()
        self.project.reset_parameters()
        for token in (self.mask_token, self.encoder.cls_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], decoded: Int[Tensor, "B Q"]
    ) -> StudentOutput:
        """Predict pixels [B, Q, P] and losses [B, Q] of the tokens `decoded`, in their order, in fp32; `latent` is the encoder's
        output. clip: normalised. visible: the token numbers that the encoder sees. Raises UserError if the clip has another
        shape than the student was built for."""
        early = None if self.early_depth is None else self.encoder(clip, visible, self.early_depth)
        latent = self.encoder(clip, visible) if early is None else self.encoder.stack(early, self.early_depth)
        x = self._decoder_input(self.project(latent), visible, decoded)  # [B, V + Q, d]
        shared = self.decoder.run_blocks(x, 0, self.shared_depth)
        pixels = self.pixel_head(self._decode(shared, decoded.shape[1]))  # [B, Q, P]
        predicted_loss = None
        if self.predictor is not None:
            source = shared if early is None else early
            source = source if self.ranking_reaches_encoder else source.detach()
            seen = source if early is None else self._decoder_input(self._narrow(source), visible, decoded)
            predicted_loss = self._score(seen, decoded.shape[1])
        return StudentOutput(pixels.float(), predicted_loss, latent)

    def predict_loss(
        self, clip: Float[Tensor, "B C T H W"], visible: Int[Tensor, "B V"], decoded: Int[Tensor, "B Q"]
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B Q"]]:
        """Predict the losses of the visible tokens and of `decoded` (Q can be 0). Runs only the parts that the predictor needs.

        The student must have a loss predictor.
        """
        latent = self.encoder(clip, visible, self.early_depth)
        seen = self._decoder_input(
            self.project(latent) if self.early_depth is None else self._narrow(latent), visible, decoded
        )
        if self.early_depth is None:
            seen = self.decoder.run_blocks(seen, 0, self.shared_depth)
        scores = self._score(seen)
        num_extra = scores.shape[1] - visible.shape[1] - decoded.shape[1]  # a class token
        return scores[:, num_extra : num_extra + visible.shape[1]], scores[:, num_extra + visible.shape[1] :]

    def drop_pixel_decoder(self) -> None:
        """Delete the parts that `predict_loss` does not use; a teacher does not need them."""
        del self.pixel_head, self.decoder.norm, self.decoder.blocks[self.shared_depth :]

    def _decoder_input(
        self, context: Float[Tensor, "B L d"], visible: Int[Tensor, "B V"], decoded: Int[Tensor, "B Q"]
    ) -> Float[Tensor, "B L2 d"]:
        """Return the encoded tokens plus their positions, followed by a mask token plus position for each token of `decoded`."""
        positions = self.positions(visible)
        if context.shape[1] > visible.shape[1]:  # a class token has no position
            positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        queries = self.mask_token + self.positions(decoded)
        return torch.cat([context + positions, queries.to(context.dtype)], dim=1)

    def _decode(self, x: Float[Tensor, "B L d"], num_queries: int) -> Float[Tensor, "B Q d"]:
        """Return the decoder's output for the mask tokens, which are the last `num_queries` tokens of `x`."""
        if isinstance(self.decoder, CrossStack):
            return self.decoder(x[:, -num_queries:], context=x[:, :-num_queries])
        return self.decoder(x, self.shared_depth)[:, -num_queries:]


def _check_depths(predictor: Predictor, blocks: Blocks, decoder: Blocks, decoder_attention: str) -> None:
    check_shared_depth(predictor.shared_depth, decoder_attention)
    if predictor.shared_depth > decoder.depth:
        raise UserError(
            f"model.predictor_shared_depth: {predictor.shared_depth}; expected at most model.decoder_depth {decoder.depth}"
        )
    if predictor.encoder_depth is not None and predictor.encoder_depth > blocks.depth:
        raise UserError(
            f"model.predictor_encoder_depth: {predictor.encoder_depth}; expected at most model.depth {blocks.depth}"
        )


def build_student(config: PretrainConfig) -> Student:
    """Return the student with the initial weights of config.train.seed: the same on every rank and for every engine."""
    with seeded_weights(config.train.seed):
        return Student.of(config)

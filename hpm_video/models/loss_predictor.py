"""The loss predictor (HPM, arXiv 2304.05919): a small decoder that predicts the reconstruction loss of each token."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.models.layers import NORM_EPS, Blocks, BlockStack


class Predictor(NamedTuple):
    """The settings of a loss predictor. Its width, heads and MLP are those of the pixel decoder.

    >>> student = hv.Student((3, 4, 16, 16), hv.Blocks(32, 2, 2), patch_px=8, predictor=hv.Predictor(depth=None))
    >>> student.predictor is None
    True
    """

    depth: int | None = 1  # blocks of its own; None = no predictor
    encoder_depth: int | None = None  # its input is taken after this many encoder blocks; None = after all
    shared_depth: int = 0  # it shares this many first blocks of the pixel decoder
    reaches_encoder: bool = False  # if True, the ranking loss trains the encoder too


PREDICTOR = Predictor()


class LossPredictor(nn.Module):
    """Predict the loss of each token with transformer blocks and a scalar head.

    The official head has P outputs and uses their mean, which is the same function. `Student` inherits from this class instead
    of holding it as a submodule: checkpoints name the parts `predictor.*`, `loss_head.*`, `early_norm.*` and `early_project.*`,
    and random initialisation depends on the order in which modules are created.
    """

    predictor: BlockStack | None
    loss_head: nn.Linear
    early_norm: nn.LayerNorm
    early_project: nn.Linear

    def _add_predictor(self, numbers: Predictor, decoder: Blocks, encoder_width: int) -> None:
        self.shared_depth, self.early_depth = numbers.shared_depth, numbers.encoder_depth
        self.ranking_reaches_encoder = numbers.reaches_encoder
        self.predictor = None
        if numbers.depth is None:
            return
        self.predictor = BlockStack(decoder._replace(depth=numbers.depth))
        self.loss_head = nn.Linear(decoder.width, 1)
        if self.early_depth is not None:
            self.early_norm = nn.LayerNorm(encoder_width, eps=NORM_EPS)
            self.early_project = nn.Linear(encoder_width, decoder.width, bias=False)

    def _reset_loss_head(self, num_values: int) -> None:
        """Initialise the head as in HPM's code: the mean of Xavier-uniform rows, one for each of the P values of a token."""
        rows = torch.empty(num_values, self.loss_head.in_features)
        with torch.no_grad():
            self.loss_head.weight.copy_(nn.init.xavier_uniform_(rows).mean(0, keepdim=True))

    def _narrow(self, early: Float[Tensor, "B L D"]) -> Float[Tensor, "B L d"]:
        """Map tokens from an early encoder block to the width of the decoder."""
        return self.early_project(self.early_norm(early))

    def _score(self, seen: Float[Tensor, "B L d"], num_last: int | None = None) -> Float[Tensor, "B K"]:
        """Return the predicted losses of the last `num_last` tokens in fp32; None = of all."""
        assert self.predictor is not None, "this student has no loss predictor (Predictor(depth=None))"
        states = self.predictor(seen)
        states = states if num_last is None else states[:, -num_last:]
        return self.loss_head(states).squeeze(-1).float()

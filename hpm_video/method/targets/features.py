"""Features of a network as the target (HPM, arXiv 2304.05919, its ablation of targets). The loss does not train that network.

HPM's code scales prediction and target of a token to unit length and takes the squared distance. Departure: here only the
target is normalised, to mean 0 and variance 1 (layer norm without affine), and the loss is the mean squared error. So all
targets share one loss and one definition of difficulty.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hpm_video.models.tokens import take
from hpm_video.types import Target


class FeatureTarget:
    """The target for the decoded tokens [B, M], from a function `features`: clip [B, C, T, H, W] -> [B, N, P]."""

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        self.features = features

    def __call__(self, clip: Float[Tensor, "B C T H W"], decoded: Int[Tensor, "B M"]) -> Target:
        return feature_target(self.features(clip), decoded)


def feature_target(features: Float[Tensor, "B N P"], decoded: Int[Tensor, "B M"]) -> Target:
    """Return the features of the decoded tokens, [B, M, P] in fp32, each token with mean 0 and variance 1."""
    values = take(features, decoded).detach().float()
    return Target(F.layer_norm(values, values.shape[-1:]))

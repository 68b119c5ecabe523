"""mask.difficulty=motion: the difference between successive frames. No model is needed."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hpm_video.method.difficulty.source import DifficultySource, SourceContext
from hpm_video.method.masking.units import Layout, aggregate


class Motion(DifficultySource):
    """Use the mean absolute frame difference of each unit: no teacher, no predictor, one pass over the pixels.

    It is the baseline that a learned source must beat. An image has no motion, so all its units tie.
    """

    def __init__(self, context: SourceContext) -> None:
        model = context.config.model
        self.token = (model.tubelet, model.patch_px, model.patch_px)

    def predict(self, clip: Float[Tensor, "B C T H W"], prepared: Tensor | None, layout: Layout) -> Tensor:
        return aggregate(token_motion(clip, self.token), layout.units)


def token_motion(
    clip: Float[Tensor, "B C T H W"],
    token: tuple[int, int, int],
    size_of: Callable[[Tensor], Tensor] = torch.abs,
) -> Float[Tensor, "B N"]:
    """Return the mean absolute difference between successive frames in each token, in the clip's units.

    token: size of a token in frames, pixels, pixels. Each frame is compared with the previous one, the first frame with the
    second. A clip of one frame gives zeros. size_of: what is averaged of each difference.
    """
    if clip.shape[2] < 2:
        return F.avg_pool3d(torch.zeros_like(clip[:, :1]).float(), token).flatten(1)
    change = size_of(clip[:, :, 1:] - clip[:, :, :-1]).mean(1)  # [B, T - 1, H, W]
    change = torch.cat([change[:, :1], change], dim=1)
    return F.avg_pool3d(change[:, None].float(), token).flatten(1)


def visible_motion(motion: Float[Tensor, "B N"], masked: torch.Tensor) -> Float[Tensor, ""]:
    """Return the visible tokens' share of the motion, divided by their share of the tokens; the mean over clips.

    motion: from `token_motion`. masked: bool, True = hidden. 1 = as after a random mask. A clip without motion counts as 1.
    """
    visible = ~masked
    whole = motion.sum(1)
    share = torch.where(whole > 0, (motion * visible).sum(1) / whole.clamp(min=1e-12), visible.float().mean(1))
    return (share / visible.float().mean(1)).mean()

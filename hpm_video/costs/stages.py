"""The stages of a training step, in one table: the parts of a network that each runs, and their multiply-adds.

The formulas (`hpm_video/costs/flops.py`), the dry run, the estimate of memory and the reports read this table. Linear maps and
the two products of attention are counted; norms, activations, softmax, losses and the optimizer are not (a few per cent).
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Geometry
from hpm_video.config.needs import trains_predictor
from hpm_video.models.encoder import resolve_size
from hpm_video.models.student import Student, target_width

TARGET, REST = "target network", "masks, targets, losses"
TEACHER = "teacher: "


class Pass(NamedTuple):
    """One pass of a network over a clip: the tokens it sees, and the tokens it predicts for."""

    config: PretrainConfig
    geometry: Geometry
    num_visible: int
    num_decoded: int
    is_teacher: bool = False

    @property
    def num_seen(self) -> int:
        """Tokens of the encoder, the class token included."""
        return self.num_visible + int(self.config.model.cls_token)


class Stage(NamedTuple):
    """A stage of a step: its name, the name for the same parts of the teacher, these parts and their cost."""

    name: str
    teacher_name: str
    parts: Callable[[Student], list[nn.Module]]  # their blocks too, as a predictor can use the first blocks only
    count: Callable[[Pass], int]  # multiply-adds of one pass over one clip, forward


def block_macs(num_tokens: int, width: int, mlp_ratio: float = 4.0) -> int:
    """Return the multiply-adds of one transformer block: 12 L D^2 + 2 L^2 D with a four times wider MLP."""
    return 2 * num_tokens * width * (2 * width + int(width * mlp_ratio) + num_tokens)


def cross_block_macs(num_queries: int, num_context: int, width: int, mlp_ratio: float = 4.0) -> int:
    """Return the multiply-adds of one block whose Q queries attend to V other tokens: 10 Q D^2 + 2 V D^2 + 2 Q V D."""
    maps = 2 * (num_context + num_queries) * width  # keys and values; queries and the output
    return width * (maps + 2 * num_queries * num_context + 2 * num_queries * int(width * mlp_ratio))


def count_embedding(step: Pass) -> int:
    """Count the linear map of the visible tokens' pixels."""
    return step.num_visible * step.geometry.values_per_token * resolve_size(step.config.model).width


def count_encoder(step: Pass) -> int:
    """Count the encoder's blocks and the map to the decoder's width. A teacher stops where its predictor starts."""
    size, depth = resolve_size(step.config.model), step.config.model.predictor_encoder_depth
    if step.is_teacher and depth is not None:
        return depth * block_macs(step.num_seen, size.width, size.mlp_ratio)
    blocks = size.depth * block_macs(step.num_seen, size.width, size.mlp_ratio)
    return blocks + step.num_seen * size.width * size.decoder_width


def count_decoder(step: Pass) -> int:
    """Count the pixel decoder's blocks; a teacher has only those that its predictor shares."""
    model, size = step.config.model, resolve_size(step.config.model)
    depth = model.predictor_shared_depth if step.is_teacher else size.decoder_depth
    if model.decoder_attention == "cross":
        return depth * cross_block_macs(step.num_decoded, step.num_seen, size.decoder_width, size.mlp_ratio)
    return depth * block_macs(step.num_seen + step.num_decoded, size.decoder_width, size.mlp_ratio)


def count_predictor(step: Pass) -> int:
    """Count the predictor's map of early tokens, its blocks and its head; a teacher's head scores the visible tokens too."""
    model, size = step.config.model, resolve_size(step.config.model)
    if not trains_predictor(step.config):
        return 0
    length = step.num_seen + step.num_decoded
    is_early = model.predictor_encoder_depth is not None
    own_map = step.num_seen * size.width * size.decoder_width if is_early else 0
    depth = size.decoder_depth if model.predictor_depth is None else model.predictor_depth
    num_scored = length if step.is_teacher else step.num_decoded
    return own_map + depth * block_macs(length, size.decoder_width, size.mlp_ratio) + num_scored * size.decoder_width


def count_head(step: Pass) -> int:
    """Count the linear map to the values of the decoded tokens; a teacher has none."""
    values = 0 if step.is_teacher else target_width(step.config)
    return step.num_decoded * resolve_size(step.config.model).decoder_width * values


def count_target(config: PretrainConfig, geometry: Geometry | None = None) -> int:
    """Count the network whose features are the target, for one clip; 0 if the target is pixels.

    It is the teacher's encoder, or an image model on one frame of each time step.
    """
    geometry, row = geometry or Geometry.of(config), TARGETS[config.objective.target]
    if row.network is not None:
        (t, h, w), (_, width, depth, side) = geometry.grid, row.network
        projection = 0 if target_width(config) == width else h * w * width * target_width(config)
        return t * (depth * block_macs(h * w + 1, width) + h * w * side**2 * 3 * width + projection)
    if not row.needs_teacher:
        return 0
    size, whole = resolve_size(config.model), Pass(config, geometry, geometry.num_tokens, 0)
    return count_embedding(whole) + size.depth * block_macs(whole.num_seen, size.width, size.mlp_ratio)


def _present(network: Student, *names: str) -> list[nn.Module]:
    """Return the named parts that a network has."""
    return [part for part in (getattr(network, name, None) for name in names) if part is not None]


STAGES = (
    Stage("patch embedding", TEACHER + "patch embedding", lambda net: [net.encoder.embed], count_embedding),
    Stage(
        "encoder",
        TEACHER + "encoder",
        lambda net: [net.encoder, net.encoder.stack, *net.encoder.stack.blocks, net.project],
        count_encoder,
    ),
    Stage("pixel decoder", TEACHER + "predictor", lambda net: [net.decoder, *net.decoder.blocks], count_decoder),
    Stage(
        "predictor",
        TEACHER + "predictor",
        lambda net: _present(net, "predictor", "loss_head", "early_norm", "early_project"),
        count_predictor,
    ),
    Stage("head", TEACHER + "head", lambda net: _present(net, "pixel_head"), count_head),
)
STAGE_NAMES = (
    *dict.fromkeys(stage.teacher_name for stage in STAGES),
    *(stage.name for stage in STAGES),
    TARGET,
    REST,
)

"""What is to be predicted of the hidden tokens: their pixels, or features that a network gives them which no gradient trains.

HPM's feature targets (arXiv 2304.05919, table of targets). Its code scales prediction and target of a token to unit length
and takes the squared distance. Departure: here the target alone is normalised, to mean 0 and variance 1 (layer norm without
affine), and the loss is the mean squared error, so that one loss, and one difficulty, serve every target.
"""

from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from timm.models import load_state_dict
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from hpm_video.config import ObjectiveConfig, PretrainConfig
from hpm_video.config.geometry import token_grid
from hpm_video.data.transforms import Normalise
from hpm_video.errors import UserError
from hpm_video.models.student import target_width
from hpm_video.models.tokens import take, take_patches

IMAGE_MODELS = {"dino": "vit_base_patch16_224.dino", "clip": "vit_base_patch16_clip_quickgelu_224.openai"}  # timm's
LAST_CLIP = "vit_base_patch16_clip_224.openai"  # objective.clip_features=last: the same weights under a plain GELU
PATCH_PX = 16  # of all
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # ImageNet's


class Target(NamedTuple):
    """What is to be predicted, and what turns it back into pixels: values * std + mean; None where it is features."""

    values: Float[Tensor, "B M P"]
    mean: Float[Tensor, "B M 1 #C"] | None = None
    std: Float[Tensor, "B M 1 #C"] | None = None


def make_target(
    clip: Float[Tensor, "B C T H W"], hidden: Int[Tensor, "B M"], kind: str, tubelet: int, patch: int
) -> Target:
    """Pixels of the hidden tokens. kind: raw; norm_token (MAE, all values of a token); norm_channel (VideoMAE)."""
    tokens = take_patches(clip, hidden, tubelet, patch).float()  # [B, M, P]
    if kind == "raw":
        nothing = tokens.new_zeros(tokens.shape[0], tokens.shape[1], 1, 1)
        return Target(tokens, nothing, nothing + 1)
    channels = clip.shape[1] if kind == "norm_channel" else 1
    values = tokens.unflatten(2, (-1, channels))  # [B, M, P / channels, channels]
    var, mean = torch.var_mean(values, 2, keepdim=True)  # unbiased, as both codes
    std = var.sqrt() + 1e-6 if kind == "norm_channel" else (var + 1e-6).sqrt()
    return Target((values - mean).div_(std).flatten(2), mean, std)


def to_pixels(values: Float[Tensor, "B M P"], target: Target) -> Float[Tensor, "B M P"]:
    """Undo the normalisation of a target of pixels with its true mean and std: for pictures."""
    assert target.mean is not None and target.std is not None
    channels = target.mean.shape[-1]
    return (values.unflatten(2, (-1, channels)) * target.std + target.mean).flatten(2)


def feature_target(features: Float[Tensor, "B N P"], hidden: Int[Tensor, "B M"]) -> Target:
    """Features of the hidden tokens, each with mean 0 and variance 1."""
    values = take(features, hidden).detach().float()
    return Target(F.layer_norm(values, values.shape[-1:]))


class ImageFeatures:
    """A frozen image model of timm, and what it says of each token of a clip: its last features, normed, without the class
    token; CLIP's projected (objective.clip_features).

    Of the frames of a token the middle one is looked at: half the cost of both for tubelet 2, and features of a picture that
    there is, where a mean over moving things would be of none. Frames are resized so that its patches are our tokens, and
    normalised as the model was trained; for CLIP projected as HPM's code does, with the mean and std of ImageNet.
    """

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        """Raises UserError where the weights are absent or of another model."""
        self.tubelet, self.size = config.model.tubelet, _picture_size(config)
        self.network = load_image_model(config).to(device)
        self.projects = is_projected(config.objective)
        self.from_clip = Normalise(config.data, device)
        own = PIXELS if self.projects else self.network.pretrained_cfg
        self.mean, self.std = (torch.tensor(own[k], device=device).view(1, -1, 1, 1) for k in ("mean", "std"))

    @torch.no_grad()
    def __call__(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B N D"]:
        frames = self.from_clip.undo(clip[:, :, self.tubelet // 2 :: self.tubelet])  # [B, C, t, H, W]
        frames = rearrange(frames, "b c t h w -> (b t) c h w")
        if frames.shape[2:] != self.size:
            frames = F.interpolate(frames, self.size, mode="bicubic", antialias=True)
        tokens = self.network.forward_features((frames - self.mean) / self.std)[:, self.network.num_prefix_tokens :]
        if self.projects:
            tokens = self.network.head(tokens)
        return rearrange(tokens, "(b t) n d -> b (t n) d", b=clip.shape[0])


def is_projected(objective: ObjectiveConfig) -> bool:
    return objective.target == "clip" and objective.clip_features == "projected"


def image_model_name(objective: ObjectiveConfig) -> str:
    """Return timm's name of the model for dino or clip."""
    is_last = objective.target == "clip" and not is_projected(objective)
    return LAST_CLIP if is_last else IMAGE_MODELS[objective.target]


def create_image_model(config: PretrainConfig) -> Any:
    """Return timm's model for dino or clip, for pictures of the clip's grid, with random weights."""
    num_outputs = target_width(config) if is_projected(config.objective) else 0
    return timm.create_model(
        image_model_name(config.objective), num_classes=num_outputs, img_size=_picture_size(config)
    )


def _picture_size(config: PretrainConfig) -> tuple[int, int]:
    _, h, w = token_grid(config)
    return (h * PATCH_PX, w * PATCH_PX)


def load_image_model(config: PretrainConfig) -> Any:
    """Return `create_image_model` with the weights of a local file, frozen. Raises UserError."""
    weights, name = config.objective.target_weights, image_model_name(config.objective)
    hub = timm.get_pretrained_cfg_value(name, "hf_hub_id") or f"timm/{name}"
    expected = (
        f"the weights of timm's {name}: model.safetensors of {hub} on the Hugging Face hub, put anywhere on this "
        "machine (nothing is downloaded here), and objective.target_weights=FILE"
    )
    if weights is None:
        raise UserError(
            f"objective.target: {config.objective.target}, but objective.target_weights is not set; expected {expected}"
        )
    if not Path(weights).is_file():
        raise UserError(f"objective.target_weights: {weights} is no file; expected {expected}")
    network: Any = create_image_model(config)
    try:
        found = checkpoint_filter_fn(load_state_dict(weights, weights_only=True), network)  # positions for this grid
        if is_projected(config.objective):
            found.setdefault("head.bias", torch.zeros(network.num_classes))  # CLIP's projection has none
        network.load_state_dict({n: w for n, w in found.items() if n in network.state_dict()})
    except Exception as error:  # of safetensors, torch, pickle or timm
        reason = str(error).strip().splitlines()[:2]
        raise UserError(f"objective.target_weights: {weights}: {' '.join(reason)}; expected {expected}") from error
    return network.eval().requires_grad_(False)

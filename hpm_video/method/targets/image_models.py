"""objective.target=dino or clip: features of a frozen image model of timm, DINO's or CLIP's ViT-B/16.

Another model is another row of `TARGETS` in config/choices.py.
"""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.models import load_state_dict
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from hpm_video.config import ObjectiveConfig, PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Geometry
from hpm_video.data.transforms import Normalise
from hpm_video.errors import UserError
from hpm_video.method.targets.features import FeatureTarget
from hpm_video.method.teacher import Teacher
from hpm_video.models.student import target_width

LAST_CLIP = "vit_base_patch16_clip_224.openai"  # for objective.clip_features=last: the same weights with a plain GELU
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # ImageNet's


def make_image_target(config: PretrainConfig, teacher: Teacher | None, device: torch.device) -> FeatureTarget:
    """Return the target from an image model. Raises UserError if its weights are missing or belong to another model."""
    return FeatureTarget(ImageFeatures(config, device))


class ImageFeatures:
    """Compute the features of each token with a frozen image model: clip [B, C, T, H, W] -> [B, N, D].

    The features are the last ones, after the final norm and without the class token; with objective.clip_features=projected,
    CLIP's are projected. The model sees one frame for each token, the middle one: with tubelet 2 that is half the cost, and
    an average of two frames would blur motion. Frames are resized so that the model's patches are our tokens. They are
    normalised with the model's own mean and std; for projected CLIP with ImageNet's, as in HPM's code.
    """

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        """Load the model. Raises UserError if the weights are missing or belong to another model."""
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
    """Return whether the target is CLIP's features after the projection."""
    return objective.target == "clip" and objective.clip_features == "projected"


def image_model_name(objective: ObjectiveConfig) -> str:
    """Return timm's name of the model that computes the target."""
    is_last = objective.target == "clip" and not is_projected(objective)
    network = TARGETS[objective.target].network
    assert network is not None, f"{objective.target} is not an image model"
    return LAST_CLIP if is_last else network.timm_name


def create_image_model(config: PretrainConfig) -> Any:
    """Return timm's model that computes the target, for images with the grid of the clip; with random weights."""
    num_outputs = target_width(config) if is_projected(config.objective) else 0
    return timm.create_model(
        image_model_name(config.objective), num_classes=num_outputs, img_size=_picture_size(config)
    )


def _picture_size(config: PretrainConfig) -> tuple[int, int]:
    (_, h, w), network = Geometry.of(config).grid, TARGETS[config.objective.target].network
    assert network is not None
    return (h * network.patch_px, w * network.patch_px)


def load_image_model(config: PretrainConfig) -> Any:
    """Return `create_image_model` with the weights of objective.target_weights, frozen. Raises UserError if the file is missing,
    unreadable or belongs to another model."""
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
        raise UserError(f"objective.target_weights: {weights} is not a file; expected {expected}")
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

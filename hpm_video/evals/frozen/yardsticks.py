"""Supervised networks of pytorchvideo as yardsticks: what labels of Kinetics-400 give on the videos of an evaluation."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hpm_video.config.yardsticks import YARDSTICKS
from hpm_video.errors import UserError
from hpm_video.evals.frozen.features import find_device
from hpm_video.evals.frozen.probe import Evaluation
from hpm_video.models.encoder import TokenEncoder
from hpm_video.reading import one_line
from hpm_video.weights.files import read_file

MEAN, STD = [0.45] * 3, [0.225] * 3  # of the zoo's networks


class SupervisedEncoder(TokenEncoder):
    """A yardstick without its classifier: one token for each clip, its pooled features."""

    def __init__(self, name: str, network: nn.Module) -> None:
        """Take the network and drop its last layers in place."""
        super().__init__()
        parts: Any = network
        head = parts.head if hasattr(parts, "head") else parts.blocks[-1]
        head.proj, head.activation = nn.Identity(), None
        self.network, self.cls_token = network, None
        self.grid, self.width = (1, 1, 1), YARDSTICKS[name].width

    def forward(self, clip: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B 1 D"]:
        """Return the features of clips as one token each."""
        return self.network(clip)[:, None]


def open_yardstick(evaluation: Evaluation, name: str) -> Evaluation:
    """Return the evaluation with a yardstick in place of the run's encoder, on clips of the yardstick's own size.

    The way of choosing frames (data.sampling) stays the run's. The weights are fetched into torch's hub folder, once. Raises
    UserError for weights that cannot be fetched or read.
    """
    row, data = YARDSTICKS[name], evaluation.config.data
    side = [row.side_px] * 2
    data = dataclasses.replace(
        data, num_frames=row.num_frames, stride=row.stride, frame_size_px=side, mean=MEAN, std=STD
    )
    encoder = SupervisedEncoder(name, load_network(name)).to(find_device()).eval()
    config = dataclasses.replace(evaluation.config, data=data)
    return evaluation._replace(config=config, encoder=encoder, yardstick=name)


def load_network(name: str) -> nn.Module:
    """Return a network of pytorchvideo with its published weights. Raises UserError."""
    builder = YARDSTICKS[name].load()
    network = builder()
    file = fetch_weights(importlib.import_module(builder.__module__).checkpoint_paths[name])
    try:
        network.load_state_dict(read_file(file, trust_pickle=False).tensors)
    except RuntimeError as error:
        raise UserError(
            f"{file}: not the weights of {name} ({one_line(error)[:200]}); delete it to fetch it again"
        ) from error
    return network


def fetch_weights(address: str) -> Path:
    """Return the file of an address in the folder where torch.hub keeps weights; fetch it if it is not there. Raises UserError."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(file), progress=False)
        except OSError as error:
            raise UserError(
                f"{address}: cannot be fetched ({one_line(error)[:200]}). Try again with a network, or put the file at {file}"
            ) from error
    return file

"""Cut a video into views for a test (clips spread over time, crops spread over the longer side), and classify and average them.

Views are in clip-major order: all crops of the first clip, then all of the second. The modules `sampling` and `augment` have
the rules for frames and crops.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from hpm_video.config import DataConfig, FinetuneConfig, TestConfig
from hpm_video.config.data_sets import SamplingProtocol
from hpm_video.data.augment import view_boxes
from hpm_video.data.dataset import ClipDataset, Key, Sample
from hpm_video.data.readers.read import read_item
from hpm_video.data.sampling import View, choose_protocol, sample_frames
from hpm_video.data.source import Source
from hpm_video.data.transforms import Normalise, cut
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.train.engines.plain import use_bf16
from hpm_video.types import Failure

log = logging.getLogger("hpm_video")


class ViewDataset(ClipDataset):
    """All views of a video, from frames that are decoded once. A batch of keys is one row, repeated `num_views` times.

    An unreadable video is not replaced: its views are black, and the first view names the reason.
    """

    def __init__(self, source: Source, config: DataConfig, test: TestConfig) -> None:
        self.test = test
        super().__init__(source, config, seed=0, training=False)
        _, self.num_clips, self.num_crops = self.choose_protocol()

    def choose_protocol(self) -> SamplingProtocol:
        """Return the sampling and test protocol of the set."""
        return choose_protocol(self.source.protocol, self.source.source, self.config, self.test)

    @property
    def num_views(self) -> int:
        """Return the number of views of a video."""
        return self.num_clips * self.num_crops

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Return the views of one row. Raises UserError if its label is not a class."""
        row, name = keys[0][0], self.source.name(keys[0][0])
        try:
            views, label = self.read_views(row)
        except UnreadableVideo as error:
            self.bad[name] = error.reason
            height, width = self.config.frame_size_px
            black = torch.zeros((3, self.config.num_frames, height, width), dtype=torch.uint8)
            first = Sample(black, -1, row, (Failure(name, error.reason),))
            return [first] + [first._replace(failures=())] * (self.num_views - 1)
        if not 0 <= label < len(self.source.classes):
            raise UserError(
                f"{self.source.source}: {name} has label {label}; expected 0 to {len(self.source.classes) - 1}"
            )
        return [Sample(view, label, row, ()) for view in views]

    def read_views(self, row: int) -> tuple[UInt8[Tensor, "V C T H W"], int]:
        """Return the views and the label. Raises UnreadableVideo."""
        name, config = self.source.name(row), self.config
        if name in self.bad:
            raise UnreadableVideo(name, self.bad[name])
        item = self.source.item(row)
        with self.decoding(row):
            frames = read_item(item, self.choose, config.reader, config.fps, self.limits)
        return cut_views(frames, self.num_clips, self.num_crops, config), item.label

    def choose(self, num_available: int) -> Int[np.ndarray, " n"]:
        """Return the frames of all clips, clip after clip, for the reader."""
        return choose_frames(self.sampling, num_available, self.num_clips, self.config)


def choose_frames(sampling: str, num_available: int, num_clips: int, config: DataConfig) -> Int[np.ndarray, " n"]:
    """Return the numbers of the frames [num_clips * T], clip after clip."""
    clips = [
        sample_frames(sampling, num_available, config, None, View(number, num_clips)) for number in range(num_clips)
    ]
    return np.concatenate(clips)


def cut_views(
    frames: UInt8[np.ndarray, "n H W C"], num_clips: int, num_crops: int, config: DataConfig
) -> UInt8[Tensor, "V C T h w"]:
    """Cut decoded frames [num_clips * T, H, W, C] into views of data.frame_size_px."""
    target = (config.frame_size_px[0], config.frame_size_px[1])
    boxes = view_boxes(frames.shape[1], frames.shape[2], target, num_crops)
    return torch.stack([cut(clip, box, target) for clip in np.split(frames, num_clips) for box in boxes])


class ViewClassifier:
    """A classifier on a device that takes one video at a time.

    A forward pass has views of one video only, at most `batch_size` of them. So the result does not depend on other
    videos, and a test is bit for bit the same on any number of processes. The cost is small passes if a video has few
    views.
    """

    def __init__(self, model: nn.Module, config: FinetuneConfig, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.normalise = Normalise(config.data, device)
        self.bf16 = use_bf16(config, device)
        self.device, self.batch_size, self.average = device, config.test.batch_size, config.test.average

    @torch.no_grad()
    def logits(self, views: UInt8[Tensor, "V C T H W"]) -> Float[Tensor, "V K"]:
        """Return the logits of each view in fp32, on the host. Raises UserError if they are not finite."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            parts = [self.model(self.normalise(part)) for part in views.split(self.batch_size)]
        logits = torch.cat(parts).float().cpu()
        if not logits.isfinite().all():
            raise UserError(
                "the classifier returns values that are not finite; expected weights of a training that did not diverge"
            )
        return logits

    def __call__(self, views: UInt8[Tensor, "V C T H W"]) -> Float[Tensor, " K"]:
        return average_views(self.logits(views), self.average)


def average_views(logits: Float[Tensor, "V K"], average: str) -> Float[Tensor, " K"]:
    """Return the mean over the views of softmax(logits) (average=probabilities) or of the logits; summed in fp64."""
    values = logits.double()
    return (values.softmax(1) if average == "probabilities" else values).mean(0).float()


def to_probabilities(scores: Float[Tensor, " K"], average: str) -> Float[Tensor, " K"]:
    """Turn the result of `average_views` into probabilities."""
    return scores if average == "probabilities" else scores.double().softmax(0).float()

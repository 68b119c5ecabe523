"""Features of a frozen encoder, one row for each video."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from hpm_video.config import DataConfig, PretrainConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.manifest import Source, open_manifest
from hpm_video.data.transforms import Normalise
from hpm_video.models.encoder import Encoder
from hpm_video.train.state import build_student
from hpm_video.types import Failure, UnreadableVideo, UserError

log = logging.getLogger("hpm_video")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Rows in the order of `paths`; videos that could not be read are in `failures` instead."""

    values: Float[ndarray, "n F"]
    labels: Int[ndarray, " n"]
    paths: list[str]
    classes: list[str]
    failures: list[Failure]


class Clips:
    """The testing clips of a labelled set: middle frames of the segments, middle crop, uint8 [n, C, T, H, W]."""

    def __init__(self, source: Source, config: DataConfig) -> None:
        dataset, rng = ClipDataset(source, config, 0, training=False), np.random.default_rng(0)
        clips, rows, labels = [], [], []
        self.failures: list[Failure] = []
        for row in range(len(source)):
            try:
                frames, label = dataset.read_frames(row, rng)
                clips.append(dataset.transform(frames, rng))
                labels.append(label)
                rows.append(row)
            except UnreadableVideo as error:
                self.failures.append(Failure(source.name(row), error.reason))
                log.warning("unreadable, left out of the scores: %s: %s", source.name(row), error.reason)
        if not clips:
            raise UserError(f"none of the {len(source)} videos of {source.source} could be read")
        self.clip = torch.stack(clips)
        self.labels = np.array(labels, dtype=np.int64)
        self.paths, self.classes = [source.name(r) for r in rows], source.classes


@torch.no_grad()
def extract_features(
    encoder: Encoder, clips: Clips, config: DataConfig, pooling: str = "motion", batch_size: int = 64
) -> Features:
    """Every token visible. pooling, with t the time steps of the token grid:

    mean    [D]      mean over all tokens
    space   [t * D]  mean over the places of each time step, one after the other
    motion  [t * D]  the same, less its mean over time: what does not change within the clip is taken away (not from
                     one time step, as of an image: that would leave nothing)
    """
    encoder = encoder.eval()
    rows = [pool(encode(encoder, part, config), encoder.grid[0], pooling) for part in clips.clip.split(batch_size)]
    return Features(
        values=torch.cat(rows).numpy(),
        labels=clips.labels,
        paths=clips.paths,
        classes=clips.classes,
        failures=clips.failures,
    )


def encode(encoder: Encoder, clip: Tensor, config: DataConfig) -> Float[Tensor, "B N D"]:
    """uint8 clips -> tokens; a class token is left out."""
    return encoder(Normalise(config)(clip))[:, -encoder.num_tokens :]


def pool(tokens: Float[Tensor, "B N D"], num_times: int, pooling: str) -> Float[Tensor, "B F"]:
    if pooling == "mean":
        return tokens.mean(1)
    if pooling not in ("space", "motion"):
        raise UserError(f"pooling: '{pooling}'; expected mean, space or motion")
    by_time = tokens.unflatten(1, (num_times, -1)).mean(2)  # [B, t, D]
    if pooling == "motion" and num_times > 1:
        by_time = by_time - by_time.mean(1, keepdim=True)
    return by_time.flatten(1)


def open_clips(config: PretrainConfig) -> tuple[Clips, Clips]:
    """Training and validation clips of the labelled set that config.data names."""
    parts = [open_manifest(config.data, split) for split in ("train", "validation")]
    if parts[0] is None or parts[1] is None or not parts[0].classes:
        raise UserError(
            f"data.root: {config.data.root} has no labels and validation split; scores need a manifest with both, or the SSv2 format"
        )
    return Clips(parts[0], config.data), Clips(parts[1], config.data)


def first_weights(config: PretrainConfig) -> Encoder:
    """The encoder as training with this configuration starts: the untrained control."""
    return build_student(config).encoder


def single_frame_scores(train: Clips, test: Clips, seed: int = 0) -> dict[str, float]:
    """What one frame tells of the label: accuracy of the better of two random forests, on its pixels and on its outline.

    first, middle, last: the frame of that time. any: forests are trained on every second frame, not told the time, and asked the same.
    A forest on pixels alone is too weak to be a proof: it stays at chance where place and size of the object tell the class.
    """
    from sklearn.ensemble import RandomForestClassifier

    num_frames = train.clip.shape[2]
    times = {"first": [0], "middle": [num_frames // 2], "last": [num_frames - 1], "any": list(range(0, num_frames, 2))}
    scores: dict[str, float] = {}
    for name, frames in times.items():
        for describe in (coarse_pixels, outline):
            (x, y), (x_test, y_test) = (
                (np.concatenate([describe(c.clip[:, :, t]) for t in frames]), np.tile(c.labels, len(frames)))
                for c in (train, test)
            )
            forest = RandomForestClassifier(100, min_samples_leaf=4, random_state=seed, n_jobs=-1)
            scores[name] = max(scores.get(name, 0.0), float(forest.fit(x, y).score(x_test, y_test)))
    return scores


def coarse_pixels(frames: UInt8[Tensor, "n C H W"], side: int = 16) -> Float[ndarray, "n F"]:
    return torch.nn.functional.adaptive_avg_pool2d(frames.float(), side).flatten(1).numpy()


def outline(frames: UInt8[Tensor, "n C H W"], side: int = 32) -> Float[ndarray, "n F"]:
    """How far each pixel is from the colour of the frame's border (median): 8 x 8 picture, sums of rows and columns, and
    quantiles. Where an object stands on plain ground, this is its place and size."""
    small = torch.nn.functional.adaptive_avg_pool2d(frames.float(), side)  # [n, C, side, side]
    border = torch.cat([small[:, :, 0], small[:, :, -1], small[..., 0], small[..., -1]], dim=-1)
    far = (small - border.median(-1).values[:, :, None, None]).abs().sum(1)  # [n, side, side]
    far = (far / (far.flatten(1).quantile(0.97, dim=1)[:, None, None] + 1e-6)).clamp(max=1)
    coarse = torch.nn.functional.adaptive_avg_pool2d(far[:, None], 8).flatten(1)
    ordered = far.flatten(1).sort(dim=1).values[:, ::32]
    return torch.cat([coarse, far.mean(1), far.mean(2), ordered], dim=1).numpy()

"""Use our clips in pytorchvideo's data sets, and pytorchvideo's labelled paths as a source here.

    from pytorchvideo.data import LabeledVideoDataset, UniformClipSampler
    dataset = LabeledVideoDataset(to_labelled_paths(source), UniformClipSampler(10), transform=ClipTransform(config.data))

Frames and clips are bitwise equal to ours if the files are upright and have 8 bits and square pixels: pytorchvideo neither
rotates frames nor corrects their aspect. Its `transforms` are never imported: they fail with current versions of torchvision.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig
from hpm_video.config.data_sets import UNKNOWN
from hpm_video.data.manifest import Manifest
from hpm_video.data.sampling import sample_frames
from hpm_video.data.source import Source
from hpm_video.data.transforms import make_transform
from hpm_video.errors import UserError
from hpm_video.streams import SAMPLE

LabelledPath = tuple[str, dict[str, Any]]


class ClipTransform:
    """Turn a sample of a `LabeledVideoDataset` into a sample of ours: its "video" becomes a clip according to data.*.

    The frames are sampled from those of the sample with data.sampling (auto: segments), then cropped and flipped. The k-th
    sample has the random draws of position k of a run with this seed. Each worker counts its own samples.
    """

    def __init__(self, config: DataConfig, seed: int = 0, training: bool = True) -> None:
        """Prepare. training: if False, take the middle frames and the central crop."""
        self.config, self.seed, self.training = config, seed, training
        self.sampling = UNKNOWN.sampling if config.sampling == "auto" else config.sampling
        self.transform = make_transform(config, training)
        self.num_done = 0  # samples that this process has returned

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sample with a clip in place of its frames, uint8 [C, T, H, W]. Raises UserError."""
        video = sample["video"]
        if isinstance(video, list):
            raise UserError(
                "a sample with several clips (RandomMultiClipSampler); expected a sampler with one clip per sample"
            )
        worker = get_worker_info()
        place = self.num_done if worker is None else self.num_done * worker.num_workers + worker.id
        self.num_done += 1
        rng = SAMPLE.numpy(self.seed, place)
        frames = np.ascontiguousarray(video.permute(1, 2, 3, 0).byte().numpy())  # [T, H, W, C]
        chosen = sample_frames(self.sampling, len(frames), self.config, rng if self.training else None)
        return {**sample, "video": self.transform(frames[chosen], rng)}


def to_labelled_paths(source: Source) -> list[LabelledPath]:
    """Return the files and labels of a source as pytorchvideo expects them. Raises UserError for samples that are not whole files
    (in shards, or pieces of a film)."""
    items = [source.item(row) for row in range(len(source))]
    odd = next((item.name for item in items if not isinstance(item.media, Path) or item.span is not None), None)
    if odd is not None:
        raise UserError(
            f"{odd}: is in a shard or is a piece of a film; expected whole files. pytorchvideo cuts them itself"
        )
    return [(str(item.media), {"label": item.label}) for item in items]


def from_labelled_paths(paths: Any, classes: Sequence[str] = (), root: Path | None = None) -> Manifest:
    """Return pytorchvideo's `LabeledVideoPaths`, or any pairs (path, {"label": number}), as a source.

    classes: the class names, by number; without them the numbers are the names. root: paths in messages are relative to it;
    None = the folder that contains all files. Raises UserError if there are no paths, or a label is not the number of a class.
    """
    files, labels = [], []
    for number, (path, info) in enumerate(_each(paths), 1):
        label = (info or {}).get("label")
        if label is not None and (isinstance(label, bool) or not isinstance(label, int | np.integer) or label < 0):
            raise UserError(f"sample {number}, {path}: label {label!r}; expected a number from 0, or None")
        files.append(os.path.abspath(path))
        labels.append(-1 if label is None else int(label))
    if not files:
        raise UserError("no labelled paths; expected at least one")
    names = list(classes) or [str(number) for number in range(max(labels) + 1)]
    if max(labels) >= len(names):
        raise UserError(f"label {max(labels)} with {len(names)} classes; expected labels below {len(names)}")
    base = Path(os.path.abspath(root)) if root else Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    rows = [Row(Path(os.path.relpath(f, base)).as_posix(), label) for f, label in zip(files, labels, strict=True)]
    return Manifest.of(base, rows, names, f"labelled paths in {base}")


def _each(paths: Any) -> Iterable[LabelledPath]:
    """Return the pairs one by one. `LabeledVideoPaths` has a length and items, but raises no IndexError at the end."""
    return (paths[number] for number in range(len(paths))) if hasattr(paths, "__len__") else paths

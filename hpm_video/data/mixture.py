"""Training on images and videos (OmniMAE, arXiv 2206.08356): each step has one kind, from its own stream."""

import math
from collections.abc import Iterator
from typing import Any

from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import ClipStream, make_loader
from hpm_video.streams import IMAGE_STEPS
from hpm_video.types import Batch


class ImageSteps:
    """Choose the steps with images by (seed, step), evenly spread: share * n of the first n steps, to within one."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.offset = share, float(IMAGE_STEPS.numpy(seed).random())

    def __contains__(self, step: int) -> bool:
        return self.before(step + 1) > self.before(step)

    def before(self, step: int) -> int:
        """Count the steps with images among steps 0 to step - 1."""
        return math.floor(self.offset + step * self.share)


class MixedStream:
    """Micro batches of a rank, from `start_step` on. Rows of images are numbered after those of the videos."""

    def __init__(
        self, videos: ClipStream, images: ClipStream, image_steps: ImageSteps, start_step: int, rounds: int
    ) -> None:
        self.videos, self.images, self.image_steps = videos, images, image_steps
        self.rounds, self.num_given = rounds, start_step * rounds

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        step = self.num_given // self.rounds
        self.num_given += 1
        if step not in self.image_steps:
            return next(self.videos)
        batch = next(self.images)
        return batch._replace(sample=batch.sample + len(self.videos.dataset), kind="image")


def make_mixed_loader(
    videos: ClipDataset, images: ClipDataset, image_steps: ImageSteps, start_step: int, steps: int, **split: Any
) -> MixedStream:
    """Make a loader of both. `split`: the other arguments of `make_loader`.

    Each stream continues after its own steps before start_step. Workers are divided as the steps are, at least one for each.
    """
    workers = split.pop("num_workers")
    for_images = max(1, round(image_steps.share * workers)) if workers else 0
    for_videos = max(1, workers - for_images) if workers else 0
    first, last = image_steps.before(start_step), image_steps.before(steps)
    split |= {"num_streams": 2}
    of_videos = make_loader(videos, start_step=start_step - first, steps=steps - last, num_workers=for_videos, **split)
    of_images = make_loader(images, start_step=first, steps=last, num_workers=for_images, **split)
    rounds = split["batch_size"] // (split["micro"] * split["world_size"])
    return MixedStream(of_videos, of_images, image_steps, start_step, rounds)


def name_row(videos: ClipDataset, images: ClipDataset, row: int) -> str:
    """Return the name in messages of the sample at a row of a `MixedStream`."""
    return videos.source.name(row) if row < len(videos) else images.source.name(row - len(videos))

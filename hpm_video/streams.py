"""Named random streams: all that a run draws comes from its seed, the name of a stream and numbers (step, place, epoch).

The same numbers give the same draws in every process. Old tags are kept, because new ones would change every run, although
NumPy takes [seed, 2] and [seed, 2, 0] for the same numbers: the samples at positions 1 to 5 of a run begin as HELD_OUT (1),
ORDER of epoch 0 and VALIDATION_SHARE (2), SHARD_ORDER of epoch 0 (3), WINDOW_ORDER of epoch 0 and window 0 (4) and KNN_CLIPS
(5). What they draw has nothing to do with each other. Nothing coincides with a `spawned` stream: new ones are such.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

MASK_64 = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Stream:
    """A stream of random numbers.

    tag: what sets it apart; None for the two oldest streams, which consist of seed and numbers alone. A `spawned` stream is one
    of NumPy's child sequences, which equal no sequence of plain numbers; give a new stream such a tag of its own.
    """

    tag: int | None
    spawned: bool = False

    def numpy(self, seed: int, *numbers: int) -> np.random.Generator:
        """Return NumPy's generator of these numbers."""
        if self.spawned:
            assert self.tag is not None
            return np.random.default_rng(np.random.SeedSequence([seed, *numbers], spawn_key=(self.tag,)))
        return np.random.default_rng([seed, *([] if self.tag is None else [self.tag]), *numbers])

    def torch(self, device: Any, seed: int, *numbers: int) -> Any:
        """Return torch's generator of these numbers, on a device: the same on every rank."""
        return seeded(device, seed, *numbers, *([] if self.tag is None else [self.tag]))

    def seed(self, seed: int, *numbers: int) -> int:
        """Return a seed of its own, for a part of the run that has all streams for itself."""
        return int(self.numpy(seed, *numbers).integers(2**63))

    @contextmanager
    def torch_global(self, seed: int, *numbers: int) -> Iterator[None]:
        """Lend torch's global generator of the CPU to these numbers; outside the block it is as before.

        Not by torch.manual_seed, which would seed the GPUs' generators too, for good.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            number = self.torch(torch.device("cpu"), seed, *numbers).initial_seed()
            torch.default_generator.manual_seed(number)
            yield


# NumPy: data
SAMPLE = Stream(None)  # position in the run: frames, crop, flip
HELD_OUT = Stream(1)  # which samples are not trained on
ORDER = Stream(2)  # epoch: order of the samples
VALIDATION_SHARE = Stream(2)  # which samples of a data set without a validation split make one
SHARD_ORDER = Stream(3)  # epoch
WINDOW_ORDER = Stream(4)  # epoch, window: order of the samples of some shards
KNN_CLIPS = Stream(5)  # which clips the kNN monitor looks at
IMAGE_STEPS = Stream(0x73746570, spawned=True)  # from which step on a run on videos has steps of images
IMAGES = Stream(0x696D6167, spawned=True)  # the seed of the images of a run on videos
PACKING = Stream(0x7061636B, spawned=True)  # order in which samples are packed into shards
TAR_ORDER = Stream(0x74617273, spawned=True)  # order of the training samples of tars that others made

# torch: the method
MASKS = Stream(None)  # step: keys of masks, views of the teacher, decoded tokens
DROP_PATH = Stream(0x64726F70)  # step: branches that stochastic depth leaves out
ERASE_BOX = Stream(1)  # step, place in the global batch
ERASE_NOISE = Stream(2)  # step, place in the global batch
MIX = Stream(3)  # step, first place of the micro batch: mixup and cutmix
RAND_AUGMENT = Stream(None)  # a number that SAMPLE drew


def seeded(device: Any, *numbers: int) -> Any:
    """Return a torch generator for these numbers (seed, step, ...): the same on every rank, unrelated for other numbers."""
    import torch

    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number & MASK_64)) * 0x9E3779B97F4A7C15 & MASK_64
        mixed ^= mixed >> 29
    return torch.Generator(device=device).manual_seed(mixed >> 1)


def seed_dropout(seed: int, step: int, start: int) -> None:
    """Seed torch's global generators for the dropout of a micro batch, which starts at a place of the global batch."""
    import torch

    torch.manual_seed(hash((seed, step, start)) & 0x7FFFFFFF)


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Draw first weights inside the block from a seed alone: the same on every rank; outside all generators are as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

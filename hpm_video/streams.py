"""Named random streams: everything that a run draws follows from its seed, a stream and numbers (step, position, epoch).

The same numbers give the same draws in every process.

Some old streams coincide, because NumPy treats [seed, 2] and [seed, 2, 0] alike: the samples at positions 1 to 5 of a run
start like HELD_OUT (1), ORDER of epoch 0 and VALIDATION_SHARE (2), SHARD_ORDER of epoch 0 (3), WINDOW_ORDER of epoch 0 and
window 0 (4) and KNN_CLIPS (5). This is harmless, since they draw different things, and new tags would change every run.
A `spawned` stream coincides with no other: use it for new streams.
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

    tag: distinguishes the stream; None for the oldest ones, which use seed and numbers alone. spawned: one of NumPy's child
    sequences, which equal no sequence of plain numbers; a new stream is spawned and has its own tag.
    """

    tag: int | None
    spawned: bool = False

    def numpy(self, seed: int, *numbers: int) -> np.random.Generator:
        """Return NumPy's generator for these numbers."""
        if self.spawned:
            assert self.tag is not None
            return np.random.default_rng(np.random.SeedSequence([seed, *numbers], spawn_key=(self.tag,)))
        return np.random.default_rng([seed, *([] if self.tag is None else [self.tag]), *numbers])

    def torch(self, device: Any, seed: int, *numbers: int) -> Any:
        """Return torch's generator for these numbers on a device, the same on every rank."""
        return seeded(device, seed, *numbers, *([] if self.tag is None else [self.tag]))

    def seed(self, seed: int, *numbers: int) -> int:
        """Return a seed for a part of the run that has all streams to itself."""
        return int(self.numpy(seed, *numbers).integers(2**63))

    @contextmanager
    def torch_global(self, seed: int, *numbers: int) -> Iterator[None]:
        """Seed torch's global CPU generator with these numbers during the block, then restore it.

        torch.manual_seed would also seed the generators of the GPUs, which are not restored.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            number = self.torch(torch.device("cpu"), seed, *numbers).initial_seed()
            torch.default_generator.manual_seed(number)
            yield


# NumPy: data
SAMPLE = Stream(None)  # by position in the run: frames, crop, flip
HELD_OUT = Stream(1)  # samples that are not trained on
ORDER = Stream(2)  # by epoch: order of the samples
VALIDATION_SHARE = Stream(2)  # samples of the validation split, if a data set comes without one
SHARD_ORDER = Stream(3)  # by epoch
WINDOW_ORDER = Stream(4)  # by epoch and window: order of the samples of some shards
KNN_CLIPS = Stream(5)  # clips that the kNN monitor uses
IMAGE_STEPS = Stream(0x73746570, spawned=True)  # offset of the steps on images in a run on videos
IMAGES = Stream(0x696D6167, spawned=True)  # seed of the images of a run on videos
PACKING = Stream(0x7061636B, spawned=True)  # order of the samples in shards
TAR_ORDER = Stream(0x74617273, spawned=True)  # order of the training samples of other people's tars
PROBE_LABELS = Stream(0x66657721, spawned=True)  # training rows whose labels an MLP probe uses

# torch: the method
MASKS = Stream(None)  # by step: keys of masks, views of the teacher, decoded tokens
DROP_PATH = Stream(0x64726F70)  # by step: branches that stochastic depth drops
ERASE_BOX = Stream(1)  # by step and position in the global batch
ERASE_NOISE = Stream(2)  # by step and position in the global batch
MIX = Stream(3)  # by step and first position of the micro batch: mixup and cutmix
RAND_AUGMENT = Stream(None)  # by a number that SAMPLE drew


def seeded(device: Any, *numbers: int) -> Any:
    """Return a torch generator for these numbers (seed, step, ...), the same on every rank; other numbers give unrelated draws."""
    import torch

    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number & MASK_64)) * 0x9E3779B97F4A7C15 & MASK_64
        mixed ^= mixed >> 29
    return torch.Generator(device=device).manual_seed(mixed >> 1)


def seed_dropout(seed: int, step: int, start: int) -> None:
    """Seed torch's global generators for the dropout of the micro batch that starts at this position of the global batch."""
    import torch

    torch.manual_seed(hash((seed, step, start)) & 0x7FFFFFFF)


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Draw initial weights inside the block from this seed alone, the same on every rank; then restore the CPU's generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

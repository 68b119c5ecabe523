"""Difficulty as a table of losses: each training clip remembers which places of its frame were hard. No teacher, no predictor.

The idea of a table of patch losses is that of PMD; this one works on whole clips, through crops and flips.

A row of the table belongs to a sample of the training data, a column to a cell of its frame (`crops`). Values are logarithms
of losses, relative within the clip. A new loss is compared with what was remembered of the same decoded units: their mean
difference is how far the student has come since, and is left out. So values written at different times compare, also if all
that is decoded now is hard. They are averaged over the visits (`MOMENTUM`).

- A cell never seen holds 0, the average difficulty. Ties fall to the random keys of the mask.
- Clips outside the training data have no difficulty: 0 everywhere, so their masks are random. So have images of a mixed run
  (`images.*`).
- Every rank holds the whole table; the ranks exchange what they saw once a step. The result does not depend on how a global
  batch is split, and a sample that stands in it several times is averaged.
- The table takes 2 bytes a unit and sample, on the device and in each checkpoint. With 196 tubes: 66 MB for Something-Something
  V2 (168,913 videos), 94 MB for Kinetics-400 (240,000).
- It is saved with the run (`DifficultySource.state`): a run that is killed continues with the table of its last checkpoint.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from hpm_video.method.difficulty.crops import Shared, shared_lengths, sum_to_cells, sum_to_units
from hpm_video.method.difficulty.source import DifficultySource, SourceContext
from hpm_video.method.journey import Journey
from hpm_video.method.masking.units import Layout
from hpm_video.types import Batch, BatchSlice, Engine

MOMENTUM = 0.7  # of a cell at each visit; the first visit sets it
LEAST_LOSS = 1e-8  # below it the logarithm is that of this loss
WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0, 0.0)  # of clips whose crop is not known


class LossTable(nn.Module):
    """The table, [samples, cells] in fp16. A parameter without gradient, as checkpoints hold parameters; 0 = never seen."""

    def __init__(self, num_samples: int, grid: tuple[int, int, int], device: torch.device) -> None:
        super().__init__()
        self.grid = grid
        cells = torch.zeros(num_samples, grid[0] * grid[1] * grid[2], dtype=torch.float16, device=device)
        self.cells = nn.Parameter(cells, requires_grad=False)

    def read(self, sample: Int[Tensor, " B"], shared: Shared) -> Float[Tensor, "B U"]:
        """Return what is known of the units of crops, in fp64: the mean of the cells that were seen; 0 if none was."""
        cells = self.cells[sample]
        known = sum_to_units((cells != 0).double(), shared, self.grid)
        return sum_to_units(cells, shared, self.grid) / torch.where(known > 0, known, 1.0)

    @torch.no_grad()
    def write(self, sample: Int[Tensor, " G"], crop: Float[Tensor, "G 5"], losses: Float[Tensor, "G U"]) -> None:
        """Take in a global batch: log losses of the decoded units; not-a-number for the others."""
        shared, seen = shared_lengths(crop, self.grid), ~losses.isnan()
        change = torch.where(seen, losses - self.read(sample, shared), 0.0)
        progress = change.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)  # of the student, in each clip
        values = torch.where(seen, losses - progress, 0.0)
        same = (sample[:, None] == sample).double()  # [G, G]: sums over the clips of one sample
        weight = same @ sum_to_cells(
            seen.double(), shared, self.grid
        )  # how many times a cell was seen, in whole or in part
        value = same @ sum_to_cells(values, shared, self.grid) / torch.where(weight > 0, weight, 1.0)
        before = self.cells[sample].double()
        rate = torch.where(before == 0, (weight > 0).double(), 1 - MOMENTUM**weight)
        after = (before + rate * (value - before)).half()
        first = same.argmax(1)  # clip of each sample: all of them write its row, so that their order does not count
        self.cells[sample] = after[first]


class RememberedLoss(DifficultySource):
    """Look up the losses that earlier visits left in the table, and write those of each step."""

    def __init__(self, context: SourceContext) -> None:
        layout = context.layouts["video"]
        self.device, self.table = context.device, None
        if context.num_samples:
            self.table = self.state = LossTable(context.num_samples, layout.grid, context.device)
        self.seen: list[tuple[Tensor, Tensor]] = []  # of each micro batch of a step: samples, and losses beside crops

    def prepare(self, rows: BatchSlice, layout: Layout, generator: torch.Generator, batch: Batch | None) -> Tensor:
        """Return the difficulties, [B, U]."""
        if self.table is None or batch is None or batch.kind != "video":
            return torch.zeros(rows.stop - rows.start, len(layout.units), device=layout.units.device)
        sample, crop = self._locate(batch)
        return self.table.read(sample, shared_lengths(crop, layout.grid)).float()

    def predict(self, clip: Tensor, prepared: Tensor | None, layout: Layout) -> Tensor:
        assert prepared is not None
        return prepared

    def observe(self, batch: Batch | None, journey: Journey) -> None:
        """Keep the losses of a micro batch until the update. Copies them: a recorded step overwrites its own."""
        if self.table is None or batch is None or batch.kind != "video" or not journey.mask.decoded.shape[1]:
            return
        loss = journey.mean_over_units(journey.losses.patch_loss.detach().float())
        unknown = torch.full((len(loss), len(journey.units)), float("nan"), device=loss.device)
        losses = unknown.scatter(1, journey.decoded_units, loss.clamp(min=LEAST_LOSS).log())
        sample, crop = self._locate(batch)
        masks_per_clip = len(loss) // len(sample)
        numbers = torch.cat([losses, crop.repeat_interleave(masks_per_clip, dim=0)], dim=1)  # [B, U + 5]
        self.seen.append((sample.repeat_interleave(masks_per_clip), numbers))

    def after_update(self, engine: Engine, progress: float) -> None:
        """Write what all ranks saw in this step."""
        if self.table is None or not self.seen:
            return
        samples, numbers = (_gather(torch.stack(of_rounds)) for of_rounds in zip(*self.seen, strict=True))
        self.seen = []
        self.table.write(samples, numbers[:, -5:], numbers[:, :-5])

    def skip_update(self) -> None:
        self.seen = []

    def _locate(self, batch: Batch) -> tuple[Int[Tensor, " B"], Float[Tensor, "B 5"]]:
        """Return the samples and their crops, on the device."""
        crop = torch.tensor(WHOLE_FRAME).repeat(len(batch.sample), 1) if batch.crop is None else batch.crop
        return self._move(batch.sample), self._move(crop)

    def _move(self, numbers: Tensor) -> Tensor:
        """Return a tensor on the device, without waiting for it."""
        return (numbers.pin_memory() if self.device.type == "cuda" else numbers).to(self.device, non_blocking=True)


def _gather(rounds: Tensor) -> Tensor:
    """Return the rows of all rounds [R, B, ...] of all ranks in the order of the global batch: round after round, in each rank
    after rank. Every rank calls it."""
    found = [rounds]
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = [torch.empty_like(rounds) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rounds)
    return torch.stack(found, dim=1).flatten(0, 2)

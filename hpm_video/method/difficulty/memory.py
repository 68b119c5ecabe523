"""mask.difficulty=memory (default): a table of losses that remembers which places of each training clip were hard.

It needs no teacher and no predictor. A table of patch losses is the idea of PMD; this one works on clips, through crops and
flips.

A row of the table belongs to a sample of the training data, a column to a cell of its frame (crops.py). A value is the
logarithm of a loss, relative to the other cells of the clip. When a clip is visited again, its new log losses are compared
with the remembered values of the same units. Their mean difference is the progress of the student since the last visit, and
is subtracted. So values written at different times are comparable, even if only hard units are decoded now. Values are
averaged over visits (`MOMENTUM`).

- A cell that was never seen holds 0, the average difficulty. Ties are broken by the random keys of the mask.
- Clips outside the training data, and the images of a mixed run (`images.*`), have difficulty 0 everywhere: their masks are
  random.
- Every rank holds the whole table. The ranks exchange their losses once a step, so the result does not depend on how the
  global batch is split. If a sample occurs several times in a batch, its losses are averaged.
- The table takes 2 bytes for each unit of each sample, on the device and in each checkpoint. With 196 tubes: 66 MB for
  Something-Something V2 (168,913 videos), 94 MB for Kinetics-400 (240,000).
- It is saved in each checkpoint (`DifficultySource.state`), so a resumed run continues with it.
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

MOMENTUM = 0.7  # weight of a cell's old value at each visit; the first visit sets the value
LEAST_LOSS = 1e-8  # smaller losses are clamped to this before the logarithm
WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0, 0.0)  # the crop of clips whose crop is unknown


class LossTable(nn.Module):
    """The table, [samples, cells] in fp16; 0 = never seen. It is a parameter without gradient, because checkpoints hold
    parameters."""

    def __init__(self, num_samples: int, grid: tuple[int, int, int], device: torch.device) -> None:
        super().__init__()
        self.grid = grid
        cells = torch.zeros(num_samples, grid[0] * grid[1] * grid[2], dtype=torch.float16, device=device)
        self.cells = nn.Parameter(cells, requires_grad=False)

    def read(self, sample: Int[Tensor, " B"], shared: Shared) -> Float[Tensor, "B U"]:
        """Return the remembered value of each unit of these crops, in fp64: the mean over the cells that were seen; 0 if none
        was. sample: rows of the table."""
        cells = self.cells[sample]
        known = sum_to_units((cells != 0).double(), shared, self.grid)
        return sum_to_units(cells, shared, self.grid) / torch.where(known > 0, known, 1.0)

    @torch.no_grad()
    def write(self, sample: Int[Tensor, " G"], crop: Float[Tensor, "G 5"], losses: Float[Tensor, "G U"]) -> None:
        """Update the table with a global batch of G clips. losses: log losses of the decoded units, NaN for the others."""
        shared, seen = shared_lengths(crop, self.grid), ~losses.isnan()
        change = torch.where(seen, losses - self.read(sample, shared), 0.0)
        progress = change.sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)  # of the student, for each clip
        values = torch.where(seen, losses - progress, 0.0)
        same = (sample[:, None] == sample).double()  # [G, G]: sums over the clips of one sample
        # how often a cell was seen; parts count as fractions
        weight = same @ sum_to_cells(seen.double(), shared, self.grid)
        value = same @ sum_to_cells(values, shared, self.grid) / torch.where(weight > 0, weight, 1.0)
        before = self.cells[sample].double()
        rate = torch.where(before == 0, (weight > 0).double(), 1 - MOMENTUM**weight)
        after = (before + rate * (value - before)).half()
        first = same.argmax(1)  # all clips of a sample write the row of its first clip, so their order has no effect
        self.cells[sample] = after[first]


class RememberedLoss(DifficultySource):
    """Read the losses of earlier visits from the table, and write the losses of each step into it."""

    def __init__(self, context: SourceContext) -> None:
        layout = context.layouts["video"]
        self.device, self.table = context.device, None
        if context.num_samples:
            self.table = self.state = LossTable(context.num_samples, layout.grid, context.device)
        self.seen: list[
            tuple[Tensor, Tensor]
        ] = []  # for each micro batch of a step: samples [B], losses and crops [B, U + 5]

    def prepare(self, rows: BatchSlice, layout: Layout, generator: torch.Generator, batch: Batch | None) -> Tensor:
        """Return the difficulty, [B, U]: the remembered losses."""
        if self.table is None or batch is None or batch.kind != "video":
            return torch.zeros(rows.stop - rows.start, len(layout.units), device=layout.units.device)
        sample, crop = self._locate(batch)
        return self.table.read(sample, shared_lengths(crop, layout.grid)).float()

    def predict(self, clip: Tensor, prepared: Tensor | None, layout: Layout) -> Tensor:
        assert prepared is not None
        return prepared

    def observe(self, batch: Batch | None, journey: Journey) -> None:
        """Keep the losses of a micro batch until the update. They are copied, because a CUDA graph overwrites its outputs."""
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
        """Write the losses that all ranks observed in this step."""
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
        """Copy to the device without waiting for the copy."""
        return (numbers.pin_memory() if self.device.type == "cuda" else numbers).to(self.device, non_blocking=True)


def _gather(rounds: Tensor) -> Tensor:
    """Gather the accumulation rounds [R, B, ...] of all ranks, and return the rows in the order of the global batch: round after
    round, and rank after rank within a round. Every rank calls it."""
    found = [rounds]
    if dist.is_initialized() and dist.get_world_size() > 1:
        found = [torch.empty_like(rounds) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rounds)
    return torch.stack(found, dim=1).flatten(0, 2)

"""A mask strategy, a source of difficulty, a choice of decoded tokens and a target: one file and one row each, no other change."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from hpm_video.config import load_config
from hpm_video.config.choices import DECODE_CHOICES, DIFFICULTY_SOURCES, MASK_PATTERNS, MASK_STRATEGIES, TARGETS
from hpm_video.config.load import describe_keys
from hpm_video.config.tables import Row, Table
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.runs.checkpoints import load_weights
from hpm_video.types import Batch, BatchSlice, UserError

CPU = torch.device("cpu")
TABLES = (MASK_STRATEGIES, MASK_PATTERNS, DIFFICULTY_SOURCES, DECODE_CHOICES, TARGETS)
OWN = '''
"""Rows of a user: soft masks, remembered losses, decoding by difficulty, and brightness as the target."""

import torch
from torch import nn

from hpm_video.config.choices import (
    DECODE_CHOICES, DIFFICULTY_SOURCES, MASK_STRATEGIES, TARGETS, DecodeRow, SourceRow, StrategyRow, TargetRow
)
from hpm_video.method.difficulty.source import DifficultySource
from hpm_video.method.masking.decoding import Decoded
from hpm_video.method.masking.strategies import mask_random
from hpm_video.types import Target


def mask_softly(difficulty, keys, plan):
    """Sample units with odds that grow with the rank of their difficulty (Gumbel top-k)."""
    assert plan.grid == (1, 4, 4) and plan.settings.mode == "soft"
    if difficulty is None:
        return mask_random(keys, plan.num_masked)
    ranks = difficulty.argsort(1).argsort(1) / difficulty.shape[1]
    return mask_random(8 * ranks - (-keys.clamp(1e-6, 1 - 1e-6).log()).log(), plan.num_masked)


class Memory(DifficultySource):
    """The last loss of each sample, whatever its units; 7 for a sample never seen."""

    def __init__(self, context):
        self.state = nn.Module()
        self.state.losses = nn.Parameter(torch.full((context.num_samples,), 7.0), requires_grad=False)
        self.num_updates = 0

    def prepare(self, rows, layout, generator, batch):
        known = torch.full((rows.stop - rows.start,), 7.0) if batch is None else self.state.losses[batch.sample]
        return known[:, None] + torch.linspace(0, 1, layout.units.shape[0])

    def predict(self, clip, prepared, layout):
        return prepared

    def observe(self, batch, journey):
        self.state.losses[batch.sample] = journey.losses.patch_loss.mean(1)

    def after_update(self, engine, progress):
        self.num_updates += 1


def decode_hardest(hidden, phases, plan, difficulty):
    """Decode whole units with odds that grow with their difficulty, weighted by the inverse of their share."""
    order = difficulty.argsort(1, descending=True)[:, : plan.num_units]
    kept = hidden.gather(1, order[:, :, None].expand(-1, -1, hidden.shape[2]))
    return Decoded(kept, torch.full(kept.shape, 0.5))


class Brightness:
    def __init__(self, config, teacher, device):
        self.config = config

    def __call__(self, clip, decoded):
        return Target(clip.mean((1, 2, 3, 4))[:, None, None].expand(-1, decoded.shape[1], 2))


MASK_STRATEGIES.add("soft", StrategyRow(help="odds by rank", implementation=mask_softly, needs_difficulty=True))
DIFFICULTY_SOURCES.add("remembered", SourceRow(help="remembered losses", implementation="own_rows:Memory"))
DECODE_CHOICES.add(
    "worst", DecodeRow(help="hard units", implementation=decode_hardest, needs_difficulty=True, whole_units=True)
)
TARGETS.add("brightness", TargetRow(help="how bright", implementation=Brightness, width=lambda config, width: 2))
'''
TINY = (
    "data.root=x train.output=y data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4 model.width=32 model.depth=1 "
    "model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 "
    "mask.hard_share_start=0.5 mask.hard_share_end=0.5 mask.decoded_share=0.5 model.decoder_attention=self engine.precision=fp32 optim.batch_size=4"
).split()
CHOSEN = ["mask.mode=soft", "mask.difficulty=remembered", "mask.decode=worst", "objective.target=brightness"]


@pytest.fixture()
def own_rows(tmp_path, monkeypatch):
    """A module outside the library, whose rows are gone after the test."""
    (tmp_path / "own_rows.py").write_text(OWN)
    for table in TABLES:
        monkeypatch.setattr(table, "rows", dict(table.rows))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("own_rows")
    sys.modules.pop("own_rows")


def test_new_rows_train_and_need_no_other_change(own_rows, smooth_clip, local_engine) -> None:
    config = load_config(overrides=[*TINY, *CHOSEN])
    student = build_student(config)
    assert student.predictor is None and student.pixel_head.out_features == 2
    step, engine = PretrainStep(config, student, CPU, num_samples=9), local_engine(student)
    assert step.teacher is None and step.beside is not None
    clip = smooth_clip(config, 4)
    batch = Batch(clip, torch.full((4,), -1), torch.tensor([8, 1, 5, 2]))
    for now in range(2):
        result, journey = step(engine, clip, BatchSlice(0, 4, 4), now, 2, batch)
        result.loss.backward()
        step.observe(batch, journey)
        step.after_update(engine, now, 2)
        assert journey.mask.masked.sum(1).tolist() == [24] * 4 and journey.mask.decoded.shape == (4, 12)
        assert journey.target.values.shape == (4, 12, 2)
        torch.testing.assert_close(journey.losses.pixel, 0.5 * journey.losses.patch_loss.mean())
    losses = step.source.state.losses
    assert (losses == 7).sum() == 5 and torch.equal(losses[batch.sample], journey.losses.patch_loss.mean(1))
    assert float(journey.difficulty[0, 0]) < 7 and step.source.num_updates == 2
    assert (
        float(step.forward(engine, clip, BatchSlice(0, 4, 4), 0, 6).difficulty[0, 0]) == 7
    )  # no loader gave these clips
    again = PretrainStep(config, student, CPU, num_samples=9)  # what is saved beside the student comes back
    load_weights(again.beside, {n: p.detach() for n, p in step.beside.named_parameters()}, Path("checkpoint"))
    assert torch.equal(again.source.state.losses, losses)


def test_a_state_is_saved_beside_the_teachers(own_rows) -> None:
    config = load_config(overrides=[*TINY, "mask.difficulty=remembered", "objective.target=teacher_features"])
    step = PretrainStep(config, build_student(config), CPU, num_samples=9)
    names = [name for name, _ in step.beside.named_parameters()]
    assert "difficulty.losses" in names and "encoder.embed.linear.weight" in names


def test_help_and_errors_follow_from_the_rows(own_rows) -> None:
    told = describe_keys()
    for words in ("soft: odds by rank", "remembered: remembered losses", "worst: hard units", "brightness: how bright"):
        assert words in told
    with pytest.raises(
        UserError, match="mask.mode: 'hard'; expected one of hpm, predictor_only, random, inverted, split, soft"
    ):
        load_config(overrides=[*TINY, "mask.mode=hard"])
    with pytest.raises(
        UserError, match="mask.difficulty: 'none_such'; expected one of teacher, motion, memory, remembered"
    ):
        load_config(overrides=[*TINY, "mask.difficulty=none_such"])


def test_rows_of_others_are_unknown() -> None:
    assert "soft" not in describe_keys()
    with pytest.raises(UserError, match="objective.target: 'brightness'; expected one of raw, "):
        load_config(overrides=[*TINY, "objective.target=brightness"])


@pytest.mark.parametrize("table", TABLES)
def test_each_row_has_help_and_an_implementation(table) -> None:
    for name, row in table.items():
        assert callable(row.load()), name
        assert row.help and ";" not in row.help


def test_a_name_keeps_its_meaning() -> None:
    table = Table(one=Row(help="1", implementation=int))
    with pytest.raises(ValueError, match="one: already a choice"):
        table.add("one", Row(help="2", implementation=float))
    table.add("two", Row(help="2", implementation="builtins:float"))
    assert list(table) == ["one", "two"] and table["two"].load() is float and table.describe() == "one: 1; two: 2"

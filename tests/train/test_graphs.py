"""Recorded micro steps: the numbers of steps that Python runs. The graphs here are played by Python; tests/gpu has real ones."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.state import RunState
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.feed import Feed
from hpm_video.train.graphs import MicroSteps, RecordedSteps, _detach, make_micro_steps
from hpm_video.train.loop import Loop
from hpm_video.train.pretrain import pretrain
from hpm_video.types import Batch

CPU = torch.device("cpu")
STEPS = 8


class PlayedGraphs:
    """As `CudaGraphs`: what the passes return stays in place, and a replay reads only tensors that were there at the record."""

    def __init__(self, room: bool = True, fault: str = "", shift: float = 0.0) -> None:
        self.room, self.fault, self.shift = room, fault, shift
        self.num_records = self.num_replays = 0

    def fits(self) -> bool:
        return self.room

    def record(self, forward, backward):
        if self.fault:
            raise RuntimeError(self.fault)
        self.num_records += 1
        kept = [forward()]
        static = tree_map_only(torch.Tensor, torch.zeros_like, _detach(kept[0]))

        def replay_forward() -> None:
            self.num_replays += 1
            kept[0] = forward()
            for own, new in zip(tree_leaves(static), tree_leaves(kept[0]), strict=True):
                if isinstance(own, torch.Tensor):
                    own.copy_(new.detach())
            static[0].loss.add_(self.shift)

        return static, replay_forward, lambda: backward(kept[0][0].loss)

    def random_state(self):
        return torch.get_rng_state()

    def set_random_state(self, state) -> None:
        torch.set_rng_state(state)


def losses_of(config, graphs: PlayedGraphs | None = None, spoil: int | None = None):
    """Losses, norms, rank correlations and last weights of a few steps; `spoil`: the micro batch that is no number."""
    student = build_student(config)
    step, engine = PretrainStep(config, student, CPU, num_samples=8), PlainEngine(student, config, CPU)
    loop = Loop(config, engine, step, RunState(), STEPS, str)
    assert type(loop.micro_steps) is MicroSteps  # no GPU here
    if graphs is not None:
        loop.micro_steps = RecordedSteps(engine, step, graphs)
    generator = torch.Generator().manual_seed(0)
    rows = []
    micro = engine.split.micro
    batches = [
        Batch(
            torch.randint(0, 256, (micro, 3, 4, 16, 16), dtype=torch.uint8, generator=generator),
            torch.full((micro,), -1),
            torch.arange(micro),
        )
        for _ in range(STEPS * engine.split.rounds)
    ]
    real = loop.normalise
    count = iter(range(10**6))
    loop.normalise = lambda clip: real(clip) * (float("nan") if next(count) == spoil else 1.0)
    feed = Feed(batches, CPU)
    for _ in range(STEPS):
        values, norm = loop._one_step(feed, measuring=loop.state.step % 3 == 0)
        rows.append({name: float(value) for name, value in values.items()} | {"norm": norm})
        loop.state.step += 1
    return rows, {name: p.detach().clone() for name, p in student.named_parameters()}, loop


def equal(one, other) -> bool:
    return one[0] == other[0] and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("view", ["all", "partial"])
@pytest.mark.parametrize("micro", [8, 4])
def test_the_numbers_are_those_of_a_step_without_a_recording(tiny_config, view, micro) -> None:
    """The hard share grows, two micro batches a step, drop path, half of the tokens decoded, clipped gradients."""
    config = tiny_config(
        teacher__view=view,
        mask__hard_share_end=0.5,
        mask__decoded_share=0.5,
        model__drop_path=0.3,
        optim__clip_norm=0.5,
        optim__base_lr=0.02,
        engine__micro_batch_size=micro,
    )
    graphs = PlayedGraphs()
    without, recorded = losses_of(config), losses_of(config, graphs)
    assert equal(without, recorded) and "rank_correlation" in recorded[0][3]
    hard = {recorded[2].step.num_hard(now / STEPS) for now in range(1, STEPS)}
    assert graphs.num_records == len(hard) > 3 and graphs.num_replays >= (STEPS - 1) * 8 // micro
    assert len(recorded[2].micro_steps.recordings) == 1  # older ones gave their memory back
    held = recorded[2].engine.held
    assert held and all(parameter.grad is gradient for parameter, gradient in held.items())


@pytest.mark.parametrize("spoil", [5, 8, 9])
def test_a_micro_batch_that_is_no_number_is_left_out(tiny_config, spoil) -> None:
    config = tiny_config(engine__micro_batch_size=4, optim__base_lr=0.02, mask__mode="random")
    without, recorded = losses_of(config, spoil=spoil), losses_of(config, PlayedGraphs(), spoil=spoil)
    assert equal(without, recorded) and recorded[2].state.num_skipped == 1
    assert not equal(losses_of(config), recorded)


@pytest.mark.parametrize("spoil", [None, 5])
def test_a_memory_of_losses_learns_the_same_from_recorded_steps(tiny_config, spoil) -> None:
    """Two micro batches a step; a replay overwrites the losses of the one before."""
    keys = {"mask__difficulty": "memory", "mask__hard_share_start": 0.5, "mask__hard_share_end": 0.5}
    config, graphs = tiny_config(engine__micro_batch_size=4, optim__base_lr=0.02, **keys), PlayedGraphs()
    without, recorded = losses_of(config, spoil=spoil), losses_of(config, graphs, spoil=spoil)
    assert equal(without, recorded) and graphs.num_replays
    tables = [found[2].step.source.state.cells for found in (without, recorded)]
    assert (
        torch.equal(*tables)
        and torch.isfinite(tables[0]).all()
        and tables[0].any(1).tolist() == [True] * 4 + [False] * 4
    )


def test_a_gradient_that_is_no_number_leaves_nothing_behind(tiny_config, monkeypatch) -> None:
    config = tiny_config(optim__base_lr=0.02, mask__mode="random")

    def run(graphs):
        real, count = PlainEngine.backward, iter(range(100))
        monkeypatch.setattr(
            PlainEngine, "backward", lambda self, loss: real(self, loss * (float("inf") if next(count) == 4 else 1.0))
        )
        found = losses_of(config, graphs)
        monkeypatch.setattr(PlainEngine, "backward", real)
        assert found[2].state.num_skipped == 1 and found[2].state.num_updates == STEPS - 1
        return found

    one, other = run(None), run(PlayedGraphs())
    assert [row["loss"] for row in one[0]] == [row["loss"] for row in other[0]]
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize(
    ("graphs", "says"),
    [
        (PlayedGraphs(fault="operation not permitted when stream is capturing\nand more"), "operation not permitted"),
        (PlayedGraphs(shift=0.1), "the loss of a replay is"),
        (PlayedGraphs(room=False), ""),
    ],
)
def test_what_cannot_be_recorded_is_run_by_python(tiny_config, caplog, graphs, says) -> None:
    config = tiny_config(model__drop_path=0.3, optim__base_lr=0.02)
    with caplog.at_level(logging.WARNING, "hpm_video"):
        recorded = losses_of(config, graphs)
    assert equal(losses_of(config), recorded) and graphs.num_records <= 1
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == bool(says) and all(says in text and "engine.graphs=never" in text for text in told)


def test_only_the_plain_engine_on_a_gpu_records(tiny_config, monkeypatch) -> None:
    config = tiny_config()
    student = build_student(config)
    step, engine = PretrainStep(config, student, CPU), PlainEngine(student, config, CPU)
    monkeypatch.setattr("hpm_video.train.graphs.CudaGraphs", lambda device: PlayedGraphs())
    assert type(make_micro_steps(config, engine, step)) is MicroSteps
    engine.device = torch.device("cuda")
    assert type(make_micro_steps(config, engine, step)) is RecordedSteps
    assert type(make_micro_steps(tiny_config(engine__graphs="never"), engine, step)) is MicroSteps
    assert type(make_micro_steps(config, engine, object())) is MicroSteps


def test_a_run_with_graphs_that_is_resumed_gives_the_losses_of_one_without(tiny_config, tmp_path, monkeypatch) -> None:
    """Stopped after half of its steps; the hard share differs from step to step."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for number in range(8):
        write_video(tmp_path / "videos" / f"{number}.mkv", rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8), 10)
    settings = {
        "data__root": str(tmp_path / "videos"),
        "data__num_held_out": 2,
        "data__num_workers": 0,
        "mask__hard_share_end": 1.0,
        "optim__batch_size": 4,
        "optim__base_lr": 0.02,
        "model__drop_path": 0.2,
        "train__steps": STEPS,
        "train__log_every_steps": 1,
        "train__save_every_steps": STEPS // 2,
        "train__num_pictures": 0,
    }
    played: list[PlayedGraphs] = []

    def rows(name: str, graphs: bool) -> list[tuple[float, float]]:
        def make(config, engine, step):
            played.append(PlayedGraphs())
            return RecordedSteps(engine, step, played[-1])

        with monkeypatch.context() as patch:
            if graphs:
                patch.setattr("hpm_video.train.loop.make_micro_steps", make)
            assert pretrain(tiny_config(train__output=str(tmp_path / name), **settings))
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [(row["loss"], row["grad_norm"]) for row in map(json.loads, lines)]

    without = rows("without", graphs=False)
    assert len(without) == STEPS and rows("with", graphs=True) == without
    shutil.rmtree(tmp_path / "with" / "checkpoints" / f"step-{STEPS:08d}")  # as if stopped in the middle
    assert rows("with", graphs=True) == without
    # of each start the first step is run by Python; each of the others has its own hard share, so its own recording, which is
    # replayed for its trial and for its step
    assert [(p.num_records, p.num_replays) for p in played] == [(n - 1, 2 * (n - 1)) for n in (STEPS, STEPS // 2)]

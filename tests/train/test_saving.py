"""Checkpoints are written beside the training: the state of the moment of the save, faults that reach the run, no waiting."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from hpm_video.errors import UserError
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.runs.checkpoints import list_checkpoints, save_checkpoint
from hpm_video.runs.state import RunState
from hpm_video.train import saving
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.saving import Saver
from hpm_video.types import BatchSlice

CPU = torch.device("cpu")


@pytest.fixture
def trained(tiny_config, smooth_clip):
    """An engine behind one update, and the teacher beside its student."""
    config = tiny_config()
    student = build_student(config)
    step, engine = PretrainStep(config, student, CPU), PlainEngine(student, config, CPU)

    def update() -> None:
        result, _ = step(engine, smooth_clip(config, 2), BatchSlice(0, 2, 2), 9, 10)
        engine.backward(result.loss)
        engine.step(1e-2)
        step.after_update(engine, 9, 10)

    update()
    return engine, step.beside, update


def moments_of(engine: PlainEngine) -> dict[str, torch.Tensor]:
    """Copies of whole moments by name."""
    parts = [part for part in engine.parts() if part.key.startswith("optimizer/")]
    return {part.key.removeprefix("optimizer/"): part.values.clone() for part in parts}


def test_training_goes_on_and_the_file_has_the_state_of_the_save(trained, tmp_path, monkeypatch) -> None:
    engine, beside, update = trained
    go = threading.Event()
    monkeypatch.setattr(saving, "save_checkpoint", lambda *given: go.wait(60) and save_checkpoint(*given))
    student = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    teacher = {name: p.detach().clone() for name, p in beside.named_parameters()}
    moments = moments_of(engine)
    saver = Saver(tmp_path, 2)
    saver.save(engine, RunState(step=1), beside)  # returns although nothing is written yet
    update()
    assert not list_checkpoints(tmp_path) and not saver.failed
    go.set()
    saver.settle()
    folder = list_checkpoints(tmp_path)[0]
    for name, expected in (("student", student), ("teacher", teacher), ("optimizer", moments)):
        found = load_file(folder / f"{name}.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
    assert any(not torch.equal(student[name], p) for name, p in engine.module.named_parameters())


def test_a_second_save_waits_for_the_first(trained, tmp_path) -> None:
    engine, beside, update = trained
    saver = Saver(tmp_path, 5)
    for step in (1, 2, 3):
        saver.save(engine, RunState(step=step), beside)
        update()
    saver.settle()
    files = [load_file(folder / "student.safetensors") for folder in list_checkpoints(tmp_path)]
    assert len(files) == 3 and all(not torch.equal(files[0][k], files[1][k]) for k in ("project.weight", "mask_token"))


def test_a_fault_of_the_disk_is_known_at_once_and_raised(trained, tmp_path) -> None:
    engine, beside, _ = trained
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    saver = Saver(tmp_path, 2)
    saver.save(engine, RunState(step=1), beside)
    assert saver.thread is not None
    saver.thread.join()
    assert saver.failed
    with pytest.raises(UserError, match="checkpoints"):
        saver.settle_together(engine)
    assert not saver.failed


class Half(PlainEngine):
    """A rank 0 that keeps the first half of each tensor. The other half comes when `go` is set, and is `self.others`."""

    sharded = True

    def parts(self):
        for part in super().parts():
            yield part._replace(values=part.values.reshape(-1)[: part.values.numel() // 2])

    def collect(self, copies, room):
        assert self.go.wait(60)
        for part in self.others:
            room(part.key, part.shape).view(-1)[part.start :] = part.values


def test_a_save_of_a_part_does_not_wait_for_the_others(trained, tmp_path) -> None:
    """The file has the whole state of the moment of the save, though the rest comes after the next update."""
    engine, beside, update = trained
    student = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    moments = moments_of(engine)
    engine.__class__, engine.go = Half, threading.Event()
    whole = list(PlainEngine.parts(engine))
    halves = [(part, part.values.numel() // 2) for part in whole]
    engine.others = [
        part._replace(start=half, values=part.values.detach().reshape(-1)[half:].clone()) for part, half in halves
    ]
    saver = Saver(tmp_path, 2)
    saver.save(engine, RunState(step=1), beside)
    update()
    engine.go.set()
    saver.settle()
    folder = list_checkpoints(tmp_path)[0]
    for name, expected in (("student", student), ("optimizer", moments)):
        found = load_file(folder / f"{name}.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


def test_memory_of_the_copies_is_there_before_the_first_save(trained, tmp_path) -> None:
    """Also that of moments which are not there yet; a state without moments is saved without them."""
    engine, beside, _ = trained
    moments = moments_of(engine)
    engine.optimizer.state.clear()
    saver = Saver(tmp_path, 2)
    saver.reserve(engine, beside)
    saver.settle()
    assert {f"optimizer/{name}" for name in moments} < saver.copies.rooms.keys()
    places = {key: room.data_ptr() for key, room in saver.copies.rooms.items()}
    saver.save(engine, RunState(step=1), beside)
    saver.settle()
    assert not load_file(list_checkpoints(tmp_path)[0] / "optimizer.safetensors")
    assert places == {key: room.data_ptr() for key, room in saver.copies.rooms.items()}

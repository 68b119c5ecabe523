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


def test_training_goes_on_and_the_file_has_the_state_of_the_save(trained, tmp_path, monkeypatch) -> None:
    engine, beside, update = trained
    go = threading.Event()
    monkeypatch.setattr(saving, "save_checkpoint", lambda *given: go.wait(60) and save_checkpoint(*given))
    student = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
    teacher = {name: p.detach().clone() for name, p in beside.named_parameters()}
    moments = engine.optimizer_state()
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

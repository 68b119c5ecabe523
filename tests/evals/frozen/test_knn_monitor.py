"""kNN during pretraining."""

import numpy as np
import pytest
import torch

from hpm_video.data.dataset import ClipDataset
from hpm_video.evals.frozen.knn_monitor import make_knn_monitor
from hpm_video.models.student import Student


def test_health_is_repeatable_and_leaves_no_trace(labelled_set, tiny_config, monkeypatch) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=0, image=True)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    measure = make_knn_monitor(config, 10)
    assert measure is not None and len(measure.train.paths) == len(measure.validation.paths) == 10
    monkeypatch.setattr(ClipDataset, "read_frames", lambda *_: pytest.fail("decoded once"))
    torch.set_rng_state(states[0])
    student = Student.of(config).train()
    before = torch.get_rng_state()
    found = measure(student, 3)
    assert found == measure(student.encoder, 4) and found == {"held_out/knn": 1.0}  # colours: mean tokens tell them
    assert student.training and student.encoder.stack.training and torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert all(p.grad is None for p in student.parameters())


def test_no_health_without_labels(labelled_set, tiny_config, tmp_path) -> None:
    config = tiny_config(data__root=str(labelled_set), data__format="folder", data__num_workers=0)
    assert make_knn_monitor(config, 4) is None

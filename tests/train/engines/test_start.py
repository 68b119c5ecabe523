"""The device of a rank."""

import pytest
import torch

from hpm_video.errors import UserError
from hpm_video.runs.launchers import Launch
from hpm_video.train.engines.start import find_own_device

TWO = Launch("torchrun", 0, 2, 0, 2, "localhost", 29500)


def test_a_rank_has_the_gpu_of_its_place(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_own_device(None).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [find_own_device(TWO._replace(local_rank=rank)).index for rank in (0, 1)] == [0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the launcher shows each rank its own
    assert find_own_device(TWO._replace(local_rank=1)).index == 0


def test_the_gpu_of_a_mac_is_taken_when_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_own_device(None, "mps").type == "mps" and find_own_device(None).type != "mps"
    with pytest.raises(UserError, match="engine.device: mps; several processes; expected one process on a Mac"):
        find_own_device(TWO, "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="engine.device: mps; no such device here"):
        find_own_device(None, "mps")

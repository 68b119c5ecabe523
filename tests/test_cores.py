"""The cores of a machine are shared by its ranks."""

import pytest

from hpm_video import cores


@pytest.mark.parametrize(
    ("num_cores", "ranks", "expected"), [(2, 1, 2), (8, 1, 7), (64, 1, 16), (96, 8, 11), (16, 8, 2), (1, 1, 2)]
)
def test_loader_processes_of_a_rank(monkeypatch, num_cores, ranks, expected) -> None:
    monkeypatch.setattr(cores, "num_free_cores", lambda: num_cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert cores.count_workers("auto") == expected
    assert cores.count_workers(3) == 3 and cores.count_workers(0) == 0


def test_ranks_of_a_machine_as_launchers_tell(monkeypatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert cores.local_world_size() == 1
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_SIZE", "8")  # DeepSpeed's
    assert cores.local_world_size() == 8

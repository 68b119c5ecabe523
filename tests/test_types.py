"""What every module draws its numbers from."""

import torch

from hpm_video.streams import seeded
from hpm_video.types import Engine

CPU = torch.device("cpu")


def test_seeds_and_steps_do_not_collide() -> None:
    assert len({seeded(CPU, seed, step).initial_seed() for seed in range(20) for step in range(500)}) == 20 * 500


def test_neighbouring_seeds_are_unrelated() -> None:
    draws = torch.stack([torch.rand(2000, generator=seeded(CPU, 0, step)) for step in range(8)])
    assert (torch.corrcoef(draws) - torch.eye(8)).abs().max() < 0.12  # 5 standard errors


def test_the_same_numbers_draw_the_same() -> None:
    assert torch.equal(*(torch.rand(9, generator=seeded(CPU, 1, 2)) for _ in range(2)))


def test_the_engine_of_the_tests_is_an_engine(tiny_config, local_engine) -> None:
    from hpm_video.models.student import Student

    assert isinstance(local_engine(Student(tiny_config())), Engine)

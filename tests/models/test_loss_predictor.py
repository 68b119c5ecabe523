"""The loss predictor: its parts have their places in a student, and its head starts as HPM's."""

import pytest
import torch

from hpm_video.models.layers import Blocks
from hpm_video.models.loss_predictor import LossPredictor, Predictor


def make(**numbers) -> LossPredictor:
    predictor = LossPredictor()
    predictor._add_predictor(Predictor(**numbers), Blocks(16, 3, 2), encoder_width=32)
    return predictor


def test_its_parts_have_the_names_of_every_checkpoint() -> None:
    parts = {name.split(".")[0] for name in make(encoder_depth=1).state_dict()}
    assert parts == {"predictor", "loss_head", "early_norm", "early_project"}
    assert {name.split(".")[0] for name in make(depth=2).state_dict()} == {"predictor", "loss_head"}
    assert not make(depth=None).state_dict()


@pytest.mark.parametrize("num_last", [None, 2])
def test_scores_are_numbers_of_the_last_tokens(num_last) -> None:
    predictor, states = make(), torch.randn(3, 7, 16)
    scores = predictor._score(states, num_last)
    assert scores.shape == (3, num_last or 7) and scores.dtype == torch.float32
    assert torch.allclose(scores, predictor._score(states)[:, -(num_last or 7) :], atol=1e-6)


def test_early_tokens_get_the_decoders_width() -> None:
    assert make(encoder_depth=1)._narrow(torch.randn(2, 5, 32)).shape == (2, 5, 16)


def test_the_head_starts_as_the_mean_of_many_rows() -> None:
    """Xavier-uniform rows of std s have a mean of std s / sqrt(rows)."""
    predictor, num_values = make(), 1536
    predictor._reset_loss_head(num_values)
    bound = (6 / (num_values + 16)) ** 0.5
    expected = bound / 3**0.5 / num_values**0.5
    assert expected / 2 < float(predictor.loss_head.weight.detach().std()) < 2 * expected

"""Units of crops and cells of frames, against a raster of the frame: every edge lies on a line of the raster."""

import numpy as np
import pytest
import torch

from hpm_video.method.difficulty.crops import shared_lengths, sum_to_cells, sum_to_units

GRID, SIDE = (2, 4, 5), 400  # points of the raster along each side of the frame
CROPS = [(0.0, 0.0, 1.0, 1.0, 0.0), (0.1, 0.25, 0.6, 0.5, 0.0), (0.3, 0.05, 0.2, 0.95, 1.0), (0.0, 0.0, 1.0, 1.0, 1.0)]


def units_of_points(crop: tuple[float, ...]) -> np.ndarray:
    """The unit (h * 5 + w) that each point of the frame lies in; -1 outside the crop."""
    top, left, height, width, mirrored = crop
    place = (np.arange(SIDE) + 0.5) / SIDE
    down, across = (place - top) / height, (place - left) / width
    across = 1 - across if mirrored else across
    inside = ((down > 0) & (down < 1))[:, None] & ((across > 0) & (across < 1))
    unit = np.floor(down * GRID[1]).astype(int)[:, None] * GRID[2] + np.floor(across * GRID[2]).astype(int)
    return np.where(inside, unit, -1)


def mean_over(field: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The mean of the field's points at each of the places 0 to 19."""
    return np.stack([field[places == place].mean() for place in range(GRID[1] * GRID[2])])


@pytest.mark.parametrize("crop", CROPS)
def test_a_unit_is_the_mean_of_the_frame_below_it_and_back(crop) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 40)))
    shared, ones = shared_lengths(torch.tensor([crop]), GRID), torch.ones(1, 40)
    cells, units = units_of_points((0, 0, 1, 1, 0)), units_of_points(crop)
    found = (sum_to_units(values, shared, GRID) / sum_to_units(ones, shared, GRID))[0].view(2, 20)
    for step in range(2):
        frame = values[0].view(2, 20)[step].numpy()[cells]
        np.testing.assert_allclose(found[step], mean_over(frame, units), atol=1e-5)
    back, weight = (sum_to_cells(x, shared, GRID)[0].view(2, 20) for x in (values, ones))
    for step in range(2):
        inside = (units >= 0).astype(float)
        np.testing.assert_allclose(weight[step], mean_over(inside, cells), atol=1e-5)
        painted = np.where(units >= 0, values[0].view(2, 20)[step].numpy()[units], 0.0)
        np.testing.assert_allclose(back[step], mean_over(painted, cells), atol=1e-5)


def test_a_crop_of_the_whole_frame_changes_nothing() -> None:
    values = torch.randn(3, 40, dtype=torch.float64)
    shared = shared_lengths(torch.tensor([CROPS[0]] * 3), GRID)
    for mapped in (sum_to_units(values, shared, GRID), sum_to_cells(values, shared, GRID)):
        torch.testing.assert_close(mapped, values, atol=1e-12, rtol=0)


def test_the_rounding_of_a_crop_visits_no_cell() -> None:
    """The left 0.6 of the frame, in fp32 a little more."""
    shared = shared_lengths(torch.tensor([[0.0, 0.0, 1.0, 0.6, 0.0]]), GRID)
    assert (sum_to_cells(torch.ones(1, 40), shared, GRID).view(2, 4, 5) > 0).any(0).any(0).tolist() == [True] * 3 + [
        False
    ] * 2

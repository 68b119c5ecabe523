"""WHEN, against independent formulas."""

import numpy as np
import pytest

from hpm_video.data.sampling import sample_dense, sample_segments


@pytest.mark.parametrize("available", [1, 3, 8, 9, 50, 301])
def test_segments_one_frame_of_each_part(available) -> None:
    for draw in range(50):
        index = sample_segments(available, 8, np.random.default_rng(draw))
        for k, i in enumerate(index):
            assert int(np.floor(k * available / 8)) <= i <= int(np.ceil((k + 1) * available / 8)) - 1
    centre = [min(int((k + 0.5) * available / 8), available - 1) for k in range(8)]
    assert sample_segments(available, 8, None).tolist() == centre


def test_segments_reach_every_frame() -> None:
    rng = np.random.default_rng(0)
    assert {int(i) for _ in range(300) for i in sample_segments(24, 8, rng)} == set(range(24))


def test_dense_keeps_the_stride_and_covers_all_starts() -> None:
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(300):
        index = sample_dense(40, 8, 4, rng)
        assert np.diff(index).tolist() == [4] * 7 and index[-1] <= 39
        starts.add(int(index[0]))
    assert starts == set(range(40 - 28))
    assert sample_dense(40, 8, 4, None)[0] == (40 - 29) // 2


def test_dense_of_a_short_video_repeats_its_last_frame() -> None:
    assert sample_dense(10, 8, 4, np.random.default_rng(0)).tolist() == [0, 4, 8, 9, 9, 9, 9, 9]
    assert sample_dense(1, 4, 2, None).tolist() == [0, 0, 0, 0]

"""Frame sampling, against independent formulas; the protocol of a set."""

import logging

import numpy as np
import pytest

from hpm_video.config import DataConfig, TestConfig
from hpm_video.config.data_sets import SamplingProtocol
from hpm_video.data.sampling import choose_protocol, sample_dense, sample_segments


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


def test_a_set_without_a_protocol_is_reported_and_keys_come_first(caplog) -> None:
    caplog.set_level(logging.INFO, "hpm_video")
    known, test = SamplingProtocol("dense", 7, 1), TestConfig(num_crops=2)
    assert choose_protocol(known, "a", DataConfig(root="x"), test) == ("dense", 7, 2)
    assert choose_protocol(None, "b", DataConfig(root="x", sampling="dense")) == ("dense", 1, 1) and not caplog.text
    assert choose_protocol(None, "c", DataConfig(root="x"), test) == ("segments", 2, 2)
    assert "c has no sampling protocol: data.sampling=segments test.num_clips=2." in caplog.text
    assert (
        caplog.records[0].levelname == "WARNING" and choose_protocol(None, "d", DataConfig(root="x"))[0] == "segments"
    )
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]

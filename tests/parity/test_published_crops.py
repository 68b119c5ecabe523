"""WHERE: the three crops of a test, and how many views of a video there are."""

import pytest

from hpm_video.config.data_sets import DATA_SETS
from hpm_video.data.augment import view_boxes

# frame (height, width) -> where VideoMAE's three crops of 224 x 224 start, in the frame resized to a short side of 224 px.
# Measured: its VideoClsDataset (kinetics.py; ssv2.py gives the same) was asked in test mode.
# Source: github.com/MCG-NJU/VideoMAE, commit 14ef8d8, --short_side_size 224 of all its fine-tuning scripts.
CROPS = {
    (240, 320): [(0, 0), (0, 37), (0, 74)],
    (320, 240): [(0, 0), (37, 0), (74, 0)],
    (256, 340): [(0, 0), (0, 36), (0, 73)],
    (240, 427): [(0, 0), (0, 87), (0, 174)],
    (100, 176): [(0, 0), (0, 85), (0, 170)],
    (360, 640): [(0, 0), (0, 87), (0, 174)],
    (640, 360): [(0, 0), (87, 0), (174, 0)],
    (1080, 1920): [(0, 0), (0, 87), (0, 174)],
    (224, 224): [(0, 0), (0, 0), (0, 0)],
    (480, 270): [(0, 0), (87, 0), (174, 0)],
    (341, 256): [(0, 0), (37, 0), (74, 0)],
}
# --test_num_segment, --test_num_crop of the scripts; HMDB51: 10 x 3 in the appendix of arXiv 2203.12602.
VIEWS = {"ssv2": (2, 3), "kinetics": (5, 3), "ucf101": (5, 3), "hmdb51": (10, 3)}


@pytest.mark.parametrize(("frame", "starts"), CROPS.items(), ids=str)
def test_three_crops_to_the_pixel(frame, starts) -> None:
    """Ours are cut from the decoded frame, and resized afterwards: the same places but for rounding, below one pixel."""
    scale = 224 / min(frame)
    for box, (top, left) in zip(view_boxes(*frame, (224, 224), 3), starts, strict=True):
        assert box.height == box.width == min(frame)
        assert abs(box.top * scale - top) < 1 and abs(box.left * scale - left) < 1


def test_views_of_each_set() -> None:
    assert {name: tuple(DATA_SETS[name].protocol[1:]) for name in VIEWS} == VIEWS

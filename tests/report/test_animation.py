"""The GIF of a run: stages from easy to hard, small, and never over a file of something else."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from hpm_video.errors import UserError
from hpm_video.report.animation import (
    BAR,
    GAP_PX,
    NUM_STAGES,
    PANEL_PX,
    Stage,
    check_target,
    draw_page,
    list_stages,
    to_gif,
)


def pages_of(content: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(content)) as image:
        return [np.asarray(page.convert("RGB")).astype(int) for page in ImageSequence.Iterator(image)]


@pytest.mark.parametrize(
    ("keys", "counts", "sharpness"),
    [
        ({"mask__mode": "hpm"}, [0, 1, 2, 3, 4, 6], [None] * 6),
        (
            {"mask__sharpness": -3.0, "mask__hard_share_start": 1.0, "mask__hard_share_end": 1.0},
            [12] * 6,
            [0.0, -0.6, -1.2, -1.8, -2.4, -3.0],
        ),
        ({"mask__mode": "random"}, [0], [None]),
    ],
    ids=["share", "sharpness", "random"],
)
def test_stages_follow_the_schedule(tiny_config, keys, counts, sharpness) -> None:
    stages = list_stages(tiny_config(**keys))
    assert [stage.num_hard for stage in stages] == counts
    assert [stage.sharpness for stage in stages] == pytest.approx(sharpness)
    assert stages[-1].progress == 1.0 and len(stages) in (1, NUM_STAGES)


def test_a_page_has_what_it_names_and_a_gif_keeps_its_pictures() -> None:
    panels = {
        name: np.full((2, 16, 16, 3), value) for name, value in (("clip", 0.0), ("mask", 0.5), ("difficulty", 1.0))
    }
    page = draw_page(panels, Stage("half way", 0.5, 0, None), ["a note " * 14, ""])
    assert page.width >= 600
    pixels = np.asarray(page).astype(int)
    middle = pixels[page.height // 2]
    assert [tuple(middle[GAP_PX + n * (PANEL_PX + GAP_PX) + 20]) for n in range(3)] == [
        (0,) * 3,
        (128,) * 3,
        (255,) * 3,
    ]
    reds = (np.abs(pixels - BAR).sum(2) < 9).any(0)
    assert 0.48 < reds.mean() < 0.52  # the bar stands in the middle
    assert (pixels[-20:].sum(2) < 300).any() and not (pixels[:, -4:].sum(2) < 300).any()  # the note is there, and fits
    other = page.copy()
    other.paste((255, 255, 255), (0, 0, 300, 300))
    first, second = pages_of(to_gif([page, other], [100, 200]))
    assert np.abs(first - pixels).mean() < 2 and np.abs(second - np.asarray(other)).mean() < 2


def test_no_file_of_something_else_is_replaced(tmp_path) -> None:
    own, foreign, text = tmp_path / "own.gif", tmp_path / "foreign.gif", tmp_path / "text.gif"
    page = Image.new("RGB", (8, 8))
    own.write_bytes(to_gif([page, page.copy()], [100, 100]))
    page.save(foreign)
    text.write_text("mine")
    check_target(own)
    check_target(tmp_path / "new.GIF")
    for out in (foreign, text):
        with pytest.raises(UserError, match="did not write; expected another name"):
            check_target(out)
    for out in (tmp_path / "new.png", tmp_path / "nowhere" / "new.gif", tmp_path):
        with pytest.raises(UserError, match="expected FILE.gif in a folder that exists"):
            check_target(out)

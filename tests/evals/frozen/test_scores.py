"""Pictures that show what they say, a report that stands alone, what one frame tells."""

import numpy as np
import torch

from hpm_video.evals.frozen.clips import Clips
from hpm_video.evals.frozen.single_frame import single_frame_scores
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import Student
from hpm_video.report.demo_report import summarise, write_report
from hpm_video.report.pictures import hide, overlay, rebuild
from hpm_video.types import BatchSlice


def test_pictures_keep_what_is_visible(tiny_config, smooth_clip, local_engine) -> None:
    config = tiny_config(mask__hard_share_start=0.5)
    student, clip = Student.of(config), smooth_clip(config, 2)
    step = PretrainStep(config, student, torch.device("cpu"))
    with torch.no_grad():
        journey = step.forward(local_engine(student), clip, BatchSlice(0, 2, 2), 0, 6)
    shown = (
        journey.mask.masked.view(2, 1, 2, 4, 4).repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    )
    visible = ~shown.expand_as(clip)
    rebuilt, hidden = rebuild(clip, journey, config), hide(clip, journey, config)
    assert torch.allclose(rebuilt[visible], clip[visible]) and torch.equal(hidden[visible], clip[visible])
    assert not torch.allclose(rebuilt[~visible], clip[~visible]) and (hidden[~visible].unique().numel() <= 3)
    assert overlay(clip, torch.rand(2, 32), config).shape == (2, 4, 16, 16, 3)
    perfect = journey._replace(output=journey.output._replace(pixels=journey.target.values))
    assert torch.allclose(rebuild(clip, perfect, config), clip, atol=1e-5)


def test_report_stands_alone_and_says_what_came_out(tmp_path) -> None:
    results = {
        "title": "T", "untrained": {"few_labels": 0.5, "knn": 0.3}, "random": {"few_labels": 0.7, "knn": 0.4}, "hpm": {"few_labels": 0.45, "knn": 0.35},
        "chance": 0.25, "single_frame": {"middle": 0.26}, "num_test": 400, "seconds": {"data": 1.0}, "commands": ["a <b>"], "seed": 3,
        "machine": {"torch": "2"}, "runs": {}, "hardness_gain": [1.02],
    }  # fmt: skip
    write_report(tmp_path / "report.html", results, {"Curves": b"png", "none": None})
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page and "data:image/png;base64" in page and "a &lt;b&gt;" in page
    few = "MLP probe of 64 labels a class"
    assert f"and below random masking by {few} (-0.250 ± 0.034)" in page
    assert f"and level with untrained by {few} (-0.050 ± 0.035)" in page
    assert f"and above untrained by {few} (+0.200" in page and "Random masking is above untrained" in page
    assert (
        "A single frame does not reveal the label: accuracy 0.260 (middle)" in page
        and "1.020. The masks are harder" in page
    )
    runs = {"hpm": {"steps": 900, "seconds": 166.0}, "random": {"steps": 1688, "seconds": 228.0}}
    said = " ".join(summarise(results | {"runs": runs, "hardness_gain": [0.98], "single_frame": {"last": 0.36}}))
    found = "HPM is level with random masking by kNN (-0.050 ± 0.034): 0.350 and 0.400 (untrained 0.300)."
    assert said.startswith(found)
    assert "Training time at equal multiply-adds: HPM 166 s (900 steps), random masking 228 s (1,688 steps)." in said
    assert (
        "0.980. The masks are not harder" in said and "A single frame partly reveals the label: accuracy 0.360" in said
    )
    measured = {"hardness_gain": [], "difficulty_visible": [1.0, 1.567], "difficulty_correlation": [-0.1, 0.698]}
    said = " ".join(summarise(results | measured))
    assert "visible have a mean difficulty rank of 0.78 (0: the easiest" in said
    assert "true loss of training clips is 0.70." in said and "Hardness gain" not in said


def test_single_frame_check_sees_the_place_of_an_object_of_any_colour() -> None:
    """Discs whose place tells the class, in colours that do not: forests on pixels alone stay near chance."""
    rng = np.random.default_rng(0)

    def discs(count: int) -> Clips:
        labels = rng.integers(2, size=count)
        ground, disc = rng.integers(256, size=(2, count, 3, 1, 1, 1))
        x = np.where(labels == 1, 18, 14)[:, None, None] + rng.integers(-3, 4, size=(count, 1, 1))
        inside = ((np.arange(32) - x) ** 2 + (np.arange(32)[:, None] - rng.integers(10, 22, (count, 1, 1))) ** 2) < 36
        clip = np.where(inside[:, None, None], disc, ground).repeat(2, axis=2)
        return Clips(clip=torch.from_numpy(clip.astype(np.uint8)), labels=labels, paths=[], classes=[])

    scores = single_frame_scores(discs(300), discs(200))
    assert set(scores) == {"first", "middle", "last", "any"} and min(scores.values()) > 0.7

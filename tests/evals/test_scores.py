"""Scores against plain formulas, pictures that show what they say, a report that stands alone."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hpm_video.evals.features import Clips, Features, pool, single_frame_scores
from hpm_video.evals.knn import predict_knn
from hpm_video.evals.pictures import hide, overlay, rebuild
from hpm_video.evals.probe import GRID, choose_C, linear_probe, score_features
from hpm_video.evals.report import summarise, write_report
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import Student
from hpm_video.types import Place, UserError


def blobs(count: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(size=(classes, 8))
    return (centres[labels] + rng.normal(size=(count, 8))).astype(np.float32), labels


def features_of(count: int, seed: int, **changes) -> Features:
    values, labels = blobs(count, seed)
    fields = {
        "values": values,
        "labels": labels,
        "paths": [str(i) for i in range(count)],
        "classes": ["a", "b", "c"],
        "failures": [],
    }
    return Features(**(fields | changes))


def test_knn_by_brute_force() -> None:
    (x, y), (q, _) = blobs(60, 0), blobs(20, 1)
    mean, std = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    a, b = ((v - mean) / std for v in (x, q))
    for row, found in zip(b, predict_knn(x, y, q, num_neighbours=7), strict=True):
        cosine = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in a]
        votes = np.zeros(3)
        for i in sorted(range(60), key=lambda i: -cosine[i])[:7]:
            votes[y[i]] += np.exp(cosine[i] / 0.07)
        assert found == votes.argmax()


def test_linear_probe_is_scikit_learns_on_the_same_features() -> None:
    (x, y), (q, t) = blobs(90, 0), blobs(60, 1)
    probe = linear_probe(x, y, q, t)
    scaler = StandardScaler().fit(x)
    direct = LogisticRegression(C=probe.C, max_iter=500).fit(scaler.transform(x), y).score(scaler.transform(q), t)
    assert probe.accuracy == pytest.approx(direct) and probe.C in GRID
    assert probe.C == choose_C(x, y) == linear_probe(x, y, -q, t).C  # the test features have no say


def test_unusable_labels_are_named() -> None:
    good = features_of(30, 0)
    with pytest.raises(UserError, match="30 of 30 clips of the test part have no label"):
        score_features(good, features_of(30, 1, labels=np.full(30, -1)))
    with pytest.raises(UserError, match="no training sample of 'c'"):
        score_features(features_of(30, 0, labels=np.arange(30) % 2), good)
    with pytest.raises(UserError, match="different classes"):
        score_features(good, features_of(30, 1, classes=["a", "b", "d"]))


def test_poolings() -> None:
    tokens = torch.randn(2, 12, 5)
    by_time = tokens.view(2, 3, 4, 5).mean(2)
    assert torch.allclose(pool(tokens, 3, "mean"), tokens.mean(1))
    assert torch.allclose(pool(tokens, 3, "space"), by_time.flatten(1))
    still = tokens[:, :4].repeat(1, 3, 1)
    assert pool(still, 3, "motion").abs().max() < 1e-6
    with pytest.raises(UserError, match="expected mean, space or motion"):
        pool(tokens, 3, "max")


def test_pictures_keep_what_is_visible(tiny_config, smooth_clip, local_engine) -> None:
    config = tiny_config(mask__hard_share_start=0.5)
    student, clip = Student(config), smooth_clip(config, 2)
    step = PretrainStep(config, student, torch.device("cpu"))
    with torch.no_grad():
        journey = step.travel(local_engine(student), clip, Place(0, 2, 2), 0, 6)
    shown = (
        journey.mask.masked.view(2, 1, 2, 4, 4).repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    )
    visible = ~shown.expand_as(clip)
    rebuilt, hidden = rebuild(clip, journey, config), hide(clip, journey, config)
    assert torch.allclose(rebuilt[visible], clip[visible]) and torch.equal(hidden[visible], clip[visible])
    assert not torch.allclose(rebuilt[~visible], clip[~visible]) and (hidden[~visible].unique().numel() <= 3)
    assert overlay(clip, torch.rand(2, 32), config).shape == clip.shape
    perfect = journey._replace(output=journey.output._replace(pixels=journey.target.values))
    assert torch.allclose(rebuild(clip, perfect, config), clip, atol=1e-5)


def test_report_stands_alone_and_says_what_came_out(tmp_path) -> None:
    results = {
        "title": "T", "untrained": {"linear": 0.5, "knn": 0.3}, "random": {"linear": 0.7, "knn": 0.4}, "hpm": {"linear": 0.45, "knn": 0.35},
        "chance": 0.25, "single_frame": {"middle": 0.26}, "num_test": 400, "seconds": {"data": 1.0}, "commands": ["a <b>"], "seed": 3,
        "machine": {"torch": "2"}, "runs": {}, "hardness_gain": [1.02],
    }  # fmt: skip
    write_report(tmp_path / "report.html", results, {"Curves": b"png", "none": None})
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page and "data:image/png;base64" in page and "a &lt;b&gt;" in page
    assert "HPM is BELOW random masking by the linear probe (-0.250 +- 0.034)" in page
    assert "HPM is level with untrained by the linear probe (-0.050 +- 0.035)" in page
    assert "random masking is above untrained by the linear probe (+0.200" in page
    assert (
        "A single frame does not tell the label: at most 0.260 (middle)" in page
        and "1.020, the masks are harder" in page
    )
    runs = {"hpm": {"steps": 900, "seconds": 166.0}, "random": {"steps": 1688, "seconds": 228.0}}
    said = " ".join(summarise(results | {"runs": runs, "hardness_gain": [0.98], "single_frame": {"last": 0.36}}))
    assert "HPM trained 166 s (900 steps), random masks 228 s (1688 steps). The clock differs by +37%" in said
    assert "0.980, the masks are not harder" in said and "A single frame tells something of the label: 0.360" in said


def test_single_frame_check_sees_the_place_of_an_object_of_any_colour() -> None:
    """Discs whose place tells the class, in colours that do not: forests on pixels alone stay near chance."""
    rng = np.random.default_rng(0)

    def discs(count: int) -> Clips:
        labels = rng.integers(2, size=count)
        ground, disc = rng.integers(256, size=(2, count, 3, 1, 1, 1))
        x = np.where(labels == 1, 18, 14)[:, None, None] + rng.integers(-3, 4, size=(count, 1, 1))
        inside = ((np.arange(32) - x) ** 2 + (np.arange(32)[:, None] - rng.integers(10, 22, (count, 1, 1))) ** 2) < 36
        clip = np.where(inside[:, None, None], disc, ground).repeat(2, axis=2)
        clips = Clips.__new__(Clips)  # without files
        clips.clip, clips.labels = torch.from_numpy(clip.astype(np.uint8)), labels
        return clips

    scores = single_frame_scores(discs(300), discs(200))
    assert set(scores) == {"first", "middle", "last", "any"} and min(scores.values()) > 0.7

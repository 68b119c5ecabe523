"""Scores of a run: what they say, what they write, what they refuse."""

import json
import logging
import re

import numpy as np
import pytest

from hpm_video.cli import main
from hpm_video.evals.frozen.features import Features
from hpm_video.evals.frozen.probe import (
    _describe_choice,
    check_labels,
    measure,
    open_evaluation,
    score_features,
    score_knn,
    write_score,
)
from hpm_video.own_folder import read_mark
from hpm_video.types import UserError


@pytest.fixture()
def features_of(blobs):
    def make(count: int, seed: int, **changes) -> Features:
        values, labels = blobs(count, seed)
        fields = {"values": values, "labels": labels, "paths": [str(i) for i in range(count)]}
        return Features(**(fields | {"classes": ["a", "b", "c"], "failures": []} | changes))

    return make


def test_unusable_labels_are_named(features_of) -> None:
    good = features_of(30, 0)
    with pytest.raises(UserError, match="30 of 30 clips of the test split have no label.*hpm-video data folder"):
        score_features(good, features_of(30, 1, labels=np.full(30, -1)))
    with pytest.raises(UserError, match="no training sample of 'c'"):
        score_features(features_of(30, 0, labels=np.arange(30) % 2), good)
    with pytest.raises(UserError, match="different classes"):
        score_features(good, features_of(30, 1, classes=["a", "b", "d"]))
    with pytest.raises(UserError, match="expected at least two classes"):
        check_labels(*[features_of(30, s, labels=np.zeros(30, int)) for s in (0, 1)])


def test_measures_by_hand() -> None:
    scores = np.zeros((6, 10))
    labels = np.array([0, 0, 0, 0, 1, 2])
    scores[np.arange(6), [0, 0, 0, 3, 1, 9]] = 2.0
    scores[3, 0] = scores[5, 8] = 1.0
    scores[5, :8] = [0.9, 0.8, 0.1, 0.7, 0.6, 0.0, 0.0, 0.0]
    found = measure(scores, labels)
    assert found["top1"] == 4 / 6 and found["chance"] == 4 / 6 and found["at_chance"] and found["num_test"] == 6
    assert found["top5"] == 5 / 6 and found["mean_class_accuracy"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert found["standard_error"] == pytest.approx(np.sqrt(4 / 6 * 2 / 6 / 6))
    assert "top5" not in measure(scores[:, :3], labels) and not measure(np.eye(40), np.arange(40))["at_chance"]


def test_choice_at_the_edge_is_said(caplog) -> None:
    caplog.set_level(logging.WARNING, "hpm_video")
    logging.getLogger("hpm_video").propagate = True
    assert not _describe_choice("C", 0.1, {0.1: 0.5, 1.0: 0.5, 10.0: 0.4})["at_edge"] and not caplog.text
    assert _describe_choice("C", 10.0, {0.1: 0.5, 1.0: 0.5, 10.0: 0.6})["at_edge"]
    assert "C 10 is the best value of the grid and at its edge" in caplog.text


def test_commands_print_and_write_what_they_find(labelled_set, make_run, capsys) -> None:
    run, _ = make_run(data__root=str(labelled_set))
    assert main(["knn", str(run), "--pool", "mean"]) == 0
    told = capsys.readouterr().out
    assert "top1: 1.000 (95 %: 1.000 to 1.000)\n" in told and "pooling: mean over all tokens, as in published" in told
    assert main(["probe", str(run), "--pool", "mean", "--epochs", "8"]) == 0
    told = capsys.readouterr().out
    assert "C: " in told and "lr: " in told
    for words, used in (([], 24), (["--labels-per-class", "3"], 6)):
        assert main(["probe", str(run), "--head", "mlp", *words]) == 0
        told = capsys.readouterr().out
        assert "MLP probe, features pooled by 'motion'" in told and ("num_labels: 6\n" in told) == (used == 6)
    assert main(["probe", str(run), "--labels-per-class", "3"]) == 1
    assert "--labels-per-class: 3; expected with --head mlp" in capsys.readouterr().err
    assert main(["score", str(run), "data.num_workers=1"]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in ("knn", "linear", "linear_C", "chance", "num_train"))
    assert (
        "minus the mean over time" in told and "do not compare this score with theirs" in told and "--pool mean" in told
    )
    found = {f.name.rpartition("-")[0]: json.loads(f.read_text()) for f in (run / "scores").glob("[!.]*.json")}
    assert set(found) == {
        *("knn-mean", "knn-motion", "linear-mean", "linear-motion", "attentive-tokens", "mlp-motion", "mlp-motion-3")
    }
    for name in ("knn-mean", "linear-mean", "attentive-tokens"):
        assert found[name]["top1"] == found[name]["mean_class_accuracy"] == 1 and found[name]["num_train"] == 24
        assert found[name]["data"]["num_frames"] == 4 and len(found[name]["weights"]) == 24
    assert found["attentive-tokens"]["chosen"]["num_held_back"] == 6  # the videos of one camera


def test_score_at_chance_warns(labelled_set, make_run, capsys) -> None:
    rows = (labelled_set / "validation.csv").read_text().splitlines()
    paths = [line.split(",")[0] for line in rows[1:]]
    (labelled_set / "validation.csv").write_text(
        "path,label\n" + "".join(f"{p},{n // 2 % 2}\n" for n, p in enumerate(paths))
    )
    run, _ = make_run(data__root=str(labelled_set))
    assert main(["knn", str(run), "--pool", "mean"]) == 0
    told = capsys.readouterr().out
    assert (
        "is not above chance (0.500) by more than two standard errors" in told
        and "kNN: may not be above chance (0.500" in told
    )


def test_what_cannot_be_scored_is_refused(labelled_set, make_run) -> None:
    run, _ = make_run(data__root=str(labelled_set))
    for overrides, message in (
        (["train.seed=1"], "only data"),
        (["data.num_frames=8"], r"token grid \(4, 4, 4\); this encoder was trained on \(2, 4, 4\)"),
    ):
        with pytest.raises(UserError, match=message):
            open_evaluation(run, overrides)
    with pytest.raises(UserError, match="no class token"):
        score_knn(open_evaluation(run, []), "cls")


TINY = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 "
    "optim.batch_size=4 train.steps=1 engine.num_threads=1"
).split()


def test_a_score_is_in_the_report(labelled_set, tmp_path, capsys) -> None:
    run, out = tmp_path / "run", tmp_path / "report"
    assert main(["pretrain", *TINY, f"data.root={labelled_set}", f"train.output={run}"]) == 0
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert f"No run has a score yet. Try: hpm-video score {run}" in (out / "report.md").read_text()
    finished = (run / "results.json").rename(tmp_path / "results.json")  # as if the run had not ended yet
    capsys.readouterr()
    assert main(["score", str(run)]) == 0
    assert f"{run} has no results.json, as the run has not finished. Rerun the command" in capsys.readouterr().out
    finished.rename(run / "results.json")
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "scored before training ended" in (out / "report.md").read_text()
    capsys.readouterr()
    assert main(["score", "--pool", "mean", str(run)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^knn: \d\.\d{3} \(95 %: \d\.\d{3} to \d\.\d{3}\)$", said, re.MULTILINE)
    assert (
        f"wrote {run / 'results.json'} (scores.knn, scores.linear)" in said and f"Next: hpm-video report {run}" in said
    )
    assert not re.search(r"\d\.\d{5}", said) and "{" not in said
    assert len([line for line in said.splitlines() if line.startswith(f"wrote {run / 'scores'}")]) == 2
    kept = json.loads((run / "results.json").read_text())["scores"]
    assert kept["knn"]["pooling"] == kept["linear"]["pooling"] == "mean" and kept["knn"]["num_test"] == 12
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "knn top1" in (out / "report.md").read_text() and "linear top1" in (out / "report.md").read_text()


def test_a_foreign_file_among_the_scores_survives(tmp_path) -> None:
    """The folder has a mark of its own; scores of before there were marks are taken into it."""
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "notes.txt").write_text("theirs")
    (folder / "plans.json").write_text('{"mine": 1}')
    (folder / "knn-mean-0.json").write_text('{"head": "knn", "top1": 0.1}')
    for top1 in (0.2, 0.3):
        write_score(folder / "knn-mean-0.json", {"head": "knn", "top1": top1})
        write_score(folder / "linear-mean-0.json", {"head": "linear", "top1": top1})
    assert json.loads((folder / "knn-mean-0.json").read_text())["top1"] == 0.3
    with pytest.raises(UserError, match="plans.json exists and was not written by hpm-video score"):
        write_score(folder / "plans.json", {"head": "knn"})
    assert (folder / "notes.txt").read_text() == "theirs" and "mine" in (folder / "plans.json").read_text()
    assert read_mark(folder)["names"] == ["knn-mean-0.json", "linear-mean-0.json"]

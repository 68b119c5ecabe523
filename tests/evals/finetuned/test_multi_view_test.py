"""The test of a run: figures by another road, any number of processes, interruptions, broken files, wrong sets."""

import json
import logging
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.data.manifest import write_manifest
from hpm_video.data.transforms import Normalise
from hpm_video.evals.finetuned import multi_view_test, views
from hpm_video.evals.finetuned.answers import Ranks, read_records
from hpm_video.evals.finetuned.multi_view_test import evaluate_run
from hpm_video.preprocess.pack import pack
from hpm_video.runs.settings import save_classes
from hpm_video.types import UserError
from hpm_video.weights.load import load_classifier


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the videos that are read, as they are."""
    read, names = views.read_item, []
    monkeypatch.setattr(views, "read_item", lambda *given: names.append(given[0].name) or read(*given))
    return names


def records_of(results) -> dict[int, dict]:
    return read_records(Path(results["folder"]))


def test_figures_by_another_road(trained, caplog) -> None:
    one = trained()
    results, (config, model, _) = evaluate_run(one.run), load_classifier(one.run)
    normalise, predicted = Normalise(config.data), []
    for frames in one.frames:
        clips = [frames[[int((p + s) * len(frames) / 4) for p in range(4)]] for s in (0.25, 0.75)]
        boxes = [clip[:, :, left : left + 16] for clip in clips for left in (0, 6, 12)]
        batch = torch.from_numpy(np.stack(boxes)).permute(0, 4, 1, 2, 3).contiguous()
        with torch.no_grad():
            predicted.append(int(model(normalise(batch)).softmax(1).mean(0).argmax()))
    scores = results["scores"]
    assert len(set(predicted)) > 1
    assert scores["top1"] == pytest.approx(accuracy_score(one.labels, predicted))
    assert scores["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(one.labels, predicted))
    assert scores["num_videos"] == 7 and scores["num_unreadable"] == 0 and "top5" not in scores
    folder = Path(results["folder"])
    assert folder.parent == one.run / "tests" and folder.name.startswith("validation-2x3-")
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "per_class.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("size", [2, 3, 9])
def test_any_number_of_processes_gives_the_same_numbers_bit_by_bit(trained, monkeypatch, size) -> None:
    one = trained()
    alone = evaluate_run(one.run)
    expected = records_of(alone)
    shutil.rmtree(one.run / "tests")
    monkeypatch.setattr(multi_view_test, "write_results", lambda *_: {})
    for rank in range(size):
        monkeypatch.setattr(multi_view_test, "Ranks", lambda rank=rank: ranks_of(rank, size))
        evaluate_run(one.run)
    monkeypatch.undo()
    folder = Path(alone["folder"])
    lines = [json.loads(line) for file in folder.glob("rank-*.jsonl") for line in file.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(7)) and read_records(folder) == expected
    assert evaluate_run(one.run) == alone


def ranks_of(rank: int, size: int) -> Ranks:
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


def test_an_interrupted_test_goes_on_with_what_is_missing(trained, reads) -> None:
    one = trained()
    whole = evaluate_run(one.run)
    file = Path(whole["folder"]) / "rank-0.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:40])  # stopped in the middle of a line
    (file.parent / "rank-4.jsonl").write_text(lines[5])  # by another process of another start
    (file.parent / "results.json").unlink()
    reads.clear()
    assert evaluate_run(one.run) == whole and reads == ["3.mkv", "4.mkv", "6.mkv"]
    reads.clear()
    assert evaluate_run(one.run) == whole and reads == []
    other = evaluate_run(one.run, ["test.num_clips=1"])
    assert other["folder"] != whole["folder"] and len(reads) == 7


def test_other_weights_labels_and_names_are_another_test(trained) -> None:
    one = trained()
    folders = {evaluate_run(one.run)["folder"]}
    rows = [Row(f"{number}.mkv", 2 - label) for number, label in enumerate(one.labels)]
    write_manifest(one.root, "mine", one.root, {"train": rows, "validation": rows}, ["clap", "jump", "wave"])
    folders.add(evaluate_run(one.run)["folder"])
    weights = one.run / "classifier.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    folders.add(evaluate_run(one.run)["folder"])
    assert len(folders) == 3
    published = evaluate_run(one.run, ["data.rule=videomae"])
    assert published["folder"] not in folders and published["test"]["rule"] == "videomae"
    assert evaluate_run(one.run, ["test.batch_size=16", "data.num_workers=1"])["folder"] in folders


def test_unreadable_files_are_named_counted_and_tried_again(trained, caplog) -> None:
    one = trained()
    good = one.file(2).read_bytes()
    whole = evaluate_run(one.run)["scores"]
    shutil.rmtree(one.run / "tests")
    one.file(2).write_bytes(b"")
    with caplog.at_level(logging.WARNING, "hpm_video"):
        results = evaluate_run(one.run, ["data.num_workers=1"])
    scores = results["scores"]
    assert "unreadable, left out of the test: 2.mkv: file is empty" in caplog.text
    assert (scores["num_videos"], scores["num_unreadable"]) == (6, 1) and set(results["unreadable"]) == {"2.mkv"}
    assert scores["top1_unreadable_wrong"] == pytest.approx(scores["top1"] * 6 / 7)
    told = multi_view_test.describe_results(results)
    assert "1 videos could not be read and are left out; if counted as wrong: top-1" in told
    one.file(2).write_bytes(good)
    assert evaluate_run(one.run)["scores"] == whole


def test_too_many_unreadable_files_stop_it(trained) -> None:
    one = trained(num_videos=22)
    for number in range(0, 22, 2):
        one.file(number).write_bytes(b"")
    with pytest.raises(UserError, match=r"could not be read, more than data.max_bad_share 0.05 \(.*file is empty"):
        evaluate_run(one.run)
    for number in range(22):
        one.file(number).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 22 samples|22 of 22|of 20 samples could not be read"):
        evaluate_run(one.run)


def test_a_file_that_hangs_is_left_out(trained, monkeypatch) -> None:
    one, read = trained(num_videos=4), views.read_item

    def hang(item, *more):
        if item.name == "1.mkv":
            time.sleep(60)
        return read(item, *more)

    monkeypatch.setattr(views, "read_item", hang)
    monkeypatch.setattr(
        torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5
    )  # s that an ended worker is waited for
    results = evaluate_run(one.run, ["data.num_workers=1", "data.time_limit_s=0.5"])
    assert results["unreadable"] == {"1.mkv": "no answer within 0.5 s"} and results["scores"]["num_videos"] == 3


def test_which_split(trained, caplog) -> None:
    one = trained(split="test")
    rows = [Row(f"{n}.mkv", label) for n, label in enumerate(one.labels)]
    unlabelled = [row._replace(label=-1) for row in rows]

    def split_of(**splits) -> str:
        write_manifest(one.root, "mine", one.root, {"train": rows, **splits}, ["clap", "jump", "wave"])
        return evaluate_run(one.run)["test"]["split"]

    assert split_of(test=rows, validation=rows[:3]) == "test"
    assert split_of(test=unlabelled, validation=rows) == "validation"
    with caplog.at_level(logging.WARNING, "hpm_video"):
        assert split_of(test=unlabelled) == "held-out" and "samples are held out" in caplog.text
    for split, message in (("test", "samples have no label"), ("validation", "has no validation split")):
        with pytest.raises(UserError, match=message):
            evaluate_run(one.run, [f"test.split={split}"])
    with pytest.raises(UserError, match="is empty"):
        split_of(validation=[])


def test_what_does_not_go_together_is_told(trained, tmp_path, capsys) -> None:
    one = trained()
    with pytest.raises(UserError, match=r"optim.base_lr=1: only data.\*, test.\* and engine.\* keys"):
        evaluate_run(one.run, ["optim.base_lr=1"])
    with pytest.raises(UserError, match="data.num_held_out: expected the value of training"):
        evaluate_run(one.run, ["data.num_held_out=99"])
    save_classes(one.run, ["jump", "clap", "wave"])
    with pytest.raises(UserError, match="the same names in another order"):
        evaluate_run(one.run)
    save_classes(one.run, ["clap", "jump", "run"])
    with pytest.raises(UserError, match="not in both: run, wave: expected the classes of the training"):
        evaluate_run(one.run)
    assert main(["test", str(tmp_path)]) == 1 and "expected the folder of a fine-tuning run" in capsys.readouterr().err


def test_shards_give_the_scores_of_their_files(trained, tmp_path) -> None:
    one = trained()
    pack(load_classifier(one.run)[0].data, str(tmp_path / "tars"), 3, 0, 1)
    scores = evaluate_run(one.run)["scores"]
    assert evaluate_run(one.run, [f"data.root={tmp_path / 'tars'}", "data.num_workers=1"])["scores"] == scores


def test_classes_without_samples_and_chance_are_said(trained, caplog) -> None:
    one = trained()
    rows = [Row(f"{number}.mkv", 0) for number in range(7)]
    write_manifest(one.root, "mine", one.root, {"train": rows, "validation": rows}, ["clap", "jump", "wave"])
    with caplog.at_level(logging.WARNING, "hpm_video"):
        results = evaluate_run(one.run)
    assert "2 of 3 classes have no validation sample: jump, wave" in caplog.text
    assert "top-1 may not be above chance (1.000, the most frequent class). Check that labels" in caplog.text
    assert results["scores"]["num_classes_present"] == 1
    assert results["scores"]["mean_class_accuracy"] == results["scores"]["top1"]
    assert "over the 1 of 3 classes that have videos" in multi_view_test.describe_results(results)


def test_from_the_command_line(trained, capsys) -> None:
    one = trained()
    assert main(["test", str(one.run), "test.num_crops=1", "test.average=logits"]) == 0
    out = capsys.readouterr().out
    assert "7 videos of the validation split, 2 clips x 1 crops, logits averaged" in out
    assert re.search(r"^top-1: 0\.\d{3} \(95 %: 0\.\d{3} to \d\.\d{3}\)$", out, re.MULTILINE)

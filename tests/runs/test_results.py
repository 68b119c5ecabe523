"""results.json: what it holds, that nothing in it is lost, and what is said of one that cannot be read."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hpm_video.catalog.rows import Row
from hpm_video.config import load_finetune_config
from hpm_video.costs import flops
from hpm_video.data.manifest import Manifest
from hpm_video.models.classifier import Classifier
from hpm_video.runs.results import add_scores, describe_data, read_results, write_results
from hpm_video.types import UserError

FIGURES = {
    "steps": 10,
    "clips": 80,
    "clips_per_s": 4.0,
    "num_bad": 1,
    "num_seen": 81,
    "bad_files": ["a"],
    "num_skipped": 0,
}


def write(run: Path, config, **changes) -> Path:
    run.mkdir(exist_ok=True)
    given = {
        "seconds": 1800.0,
        "flops": 1e12,
        "world_size": 4,
        "figures": FIGURES,
        "data": {"name": "x", "num_rows": 40},
    }
    return write_results(run, "pretrain", config, **(given | changes))


def test_content(tiny_config, tmp_path) -> None:
    config = tiny_config(train__seed=3)
    content = json.loads(write(tmp_path / "run", config).read_text())
    assert content["config"]["mask"]["mode"] == "hpm" and content["seed"] == 3 and content["kind"] == "pretrain"
    assert (content["hours"], content["device_hours"], content["world_size"]) == (0.5, 2.0, 4)
    assert content["flops"] == 1e12 and content["figures"] == FIGURES and content["data"]["num_rows"] == 40
    assert torch.__version__.startswith(content["versions"]["torch"]) and content["pretraining"] is None
    assert content["hardware"]["cores"] == len(os.sched_getaffinity(0)) and 0.01 < content["memory_gib"] < 1000
    assert os.uname().nodename not in json.dumps(content["hardware"])
    assert read_results(tmp_path / "run") == content


def test_added_scores_stay(tiny_config, tmp_path) -> None:
    run, config = tmp_path / "run", tiny_config()
    write(run, config)
    before = read_results(run)
    add_scores(run, "probe", {"linear": 0.5})
    add_scores(run, "test", {"top1": 0.7, "num_clips": 2})
    add_scores(run, "probe", {"linear": 0.6})
    assert read_results(run) == before | {"scores": {"probe": {"linear": 0.6}, "test": {"top1": 0.7, "num_clips": 2}}}
    write(run, config, seconds=2000.0)  # as after going on from an earlier checkpoint
    assert read_results(run)["hours"] == 2000 / 3600 and read_results(run)["scores"]["test"]["top1"] == 0.7


def test_a_finished_run_started_again_keeps_its_record(tiny_config, tmp_path) -> None:
    run, config = tmp_path / "run", tiny_config()
    before = write(run, config).read_text()
    assert write(run, config, world_size=1).read_text() == before


def test_a_stop_while_writing_leaves_the_old_file(tiny_config, tmp_path, monkeypatch) -> None:
    run = tmp_path / "run"
    before = write(run, tiny_config()).read_text()

    def stop(*names: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            add_scores(run, "probe", {"linear": 0.5})
    assert (run / "results.json").read_text() == before
    add_scores(run, "probe", {"linear": 0.5})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "has no results.json; it is not a run folder"),
        ("{", "results.json is damaged .* writes it again"),
        ("[]", "format None, version None; expected 'hpm-video results', version 1"),
        ('{"format": "hpm-video results", "version": 2}', "version 2; expected 'hpm-video results', version 1"),
        ('{"format": "hpm-video results", "version": 1, "kind": "test"}', "lacks config, seed"),
    ],
)
def test_records_that_cannot_be_read(tmp_path, tiny_config, text, said) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_results(tmp_path)
    with pytest.raises(UserError, match=said):
        add_scores(tmp_path, "probe", {})
    if text is not None:
        with pytest.raises(UserError, match=said):
            write(tmp_path, tiny_config())
        assert (tmp_path / "results.json").read_text() == text


def test_unfinished_and_absent_runs_are_told_apart(tmp_path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="the run has not finished. Rerun its command to resume"):
        read_results(tmp_path)
    for act in (read_results, lambda run: add_scores(run, "probe", {})):
        with pytest.raises(UserError, match="nowhere does not exist or is not a folder"):
            act(tmp_path / "nowhere")


def test_fingerprint_is_of_the_rows_and_not_of_the_place() -> None:
    rows = [Row("a.mp4", 0), Row("b.mp4", 1)]

    def of(rows: list[Row], root: str = "/one") -> dict:
        return describe_data(Manifest.of(Path(root), rows, ["x", "y"], f"set {root}", set_name="set"))

    assert of(rows) == of(rows, "/other") and of(rows)["name"] == "set" and of(rows)["num_rows"] == 2
    assert re.fullmatch("[0-9a-f]{16}", of(rows)["fingerprint"])
    others = [rows[::-1], rows[:1], [rows[0], Row("b.mp4", 0)], [rows[0], Row("b.mp4", 1, first_frame=3)]]
    assert len({of(r)["fingerprint"] for r in [rows, *others]}) == 5


TUNE = (
    "data.root=x train.output=x data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4 model.width=32 model.depth=2 "
    "model.num_heads=2 optim.batch_size=6"
).split()


def test_a_fine_tuned_run_names_what_it_started_from(tiny_config, tmp_path) -> None:
    write(tmp_path / "first", tiny_config(train__seed=5))
    for weights, seed in ((tmp_path / "first", 5), (tmp_path / "first" / "encoder.safetensors", 5), (tmp_path, None)):
        config = load_finetune_config(None, [*TUNE, f"init.weights={weights}"])
        run = tmp_path / f"tuned-{weights.name}"
        run.mkdir()
        write_results(run, "finetune", config, seconds=1.0, flops=1.0, world_size=1, figures={})
        found = read_results(run)["pretraining"]
        assert (found and found["seed"]) == seed and (found is None or found["flops"] == 1e12)


@pytest.mark.parametrize("keys", [[], ["model.cls_token=true", "model.pooling=cls"]])
def test_multiply_adds_of_a_classifier_are_those_torch_counts(keys) -> None:
    config = load_finetune_config(None, [*TUNE, *keys])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        Classifier.of(config, 7)(torch.randn(1, 3, 4, 16, 16))
    assert counter.get_total_flops() == 2 * flops.count_classifier(config, 7)
    assert flops.finetune_flops(config, 7, steps=10) == 3 * 10 * 6 * counter.get_total_flops()
    assert flops.testing_flops(config, 7, num_videos=11, num_views=15) == 11 * 15 * counter.get_total_flops()


def test_scores_of_an_earlier_version_have_the_names_of_today(tmp_path) -> None:
    """Tests wrote mean_class, probes mean_class_accuracy; both compare now."""
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "before_rooms" / "tuned", tmp_path / "tuned")
    file = tmp_path / "tuned" / "results.json"
    before = json.loads(file.read_text())["scores"]["test"]
    found = read_results(tmp_path / "tuned")["scores"]["test"]
    assert found["mean_class_accuracy"] == before["mean_class"] and "mean_class" not in found
    assert found["mean_class_accuracy_interval"] == before["mean_class_interval"]

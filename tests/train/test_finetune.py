"""Fine-tuning runs in one process: what they start from, that they learn, resume and refuse what cannot work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.config import load_finetune_config
from hpm_video.data.manifest import write_manifest
from hpm_video.method.finetune_step import FinetuneStep, soft_cross_entropy
from hpm_video.models.tokens import fixed_table
from hpm_video.preprocess.encode import write_video
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.finetune import build_classifier, finetune, finetune_config
from hpm_video.train.metrics import start_logging
from hpm_video.types import Batch, BatchSlice, UserError
from hpm_video.weights.load import load_classifier

PRETRAIN = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=2 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.75 optim.batch_size=4 train.steps=2 train.num_pictures=0 engine.precision=fp32 engine.num_threads=1"
).split()
KEYS = (
    "data.num_workers=0 data.num_held_out=6 model.drop_path=0.2 augment.num_ops=1 optim.batch_size=6 optim.base_lr=0.05 "
    "optim.average_decay=0.9 train.steps=6 train.log_every_steps=1 train.measure_every_steps=3 train.save_every_steps=3 "
    "engine.precision=fp32 engine.num_threads=1"
).split()
PLAIN = "augment.num_ops=0 augment.erase_probability=0 augment.mixup_alpha=0 augment.cutmix_alpha=0 augment.label_smoothing=0 model.drop_path=0".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Bright top, bright bottom, bright left: classes that a mirrored or cropped clip keeps for the first two."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    rows = []
    for number in range(18):
        frames = rng.integers(0, 80, (8, 16, 16, 3), dtype=np.uint8)
        part = [np.s_[:, :8], np.s_[:, 8:], np.s_[:, :, :8]][number % 3]
        frames[part] += 150
        write_video(root / f"{number}.mkv", frames, 10)
        rows.append(Row(f"{number}.mkv", number % 3))
    write_manifest(root, "toy", root, {"train": rows[:12], "validation": rows[12:]}, ["top", "bottom", "left"])
    return root


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    assert main(["pretrain", *PRETRAIN, f"data.root={data}", f"train.output={out}"]) == 0
    return out


def tune(data: Path, weights: Path | None, out: Path, *keys: str) -> bool:
    given = [*KEYS, f"data.root={data}", f"train.output={out}", *keys]
    given += [f"init.weights={weights}"] if weights else []
    start_logging()
    return finetune(finetune_config(None, given))


@pytest.fixture(scope="module")
def whole(data, pretrained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "whole"
    assert tune(data, pretrained, out)
    return out


def test_model_and_clips_are_those_of_the_weights(whole, pretrained) -> None:
    config, classifier, classes = load_classifier(whole)
    assert (config.model.width, config.model.patch_px, config.data.num_frames) == (32, 4, 4)
    assert config.data.frame_size_px == [16, 16] and config.model.drop_path == 0.2
    assert classes == ["top", "bottom", "left"] and classifier.head.out_features == 3
    assert {line.split(":")[0] for line in (whole / "config.yaml").read_text().splitlines() if line[0] != " "} >= {
        "init"
    }


def test_it_starts_from_the_encoder(pretrained, data, tmp_path, monkeypatch) -> None:
    """With a learning rate of 0 the encoder stays what was pretrained."""
    assert tune(data, pretrained, tmp_path, "optim.base_lr=0", "train.steps=1")
    before, after = load_file(pretrained / "encoder.safetensors"), load_file(tmp_path / "classifier.safetensors")
    same = [name for name in before if f"encoder.{name}" in after]
    assert len(same) == len(before) - 2  # without the encoder's last norm
    assert all(torch.equal(before[name], after[f"encoder.{name}"]) for name in same)


def test_resume_is_bitwise(whole, data, pretrained, tmp_path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    assert tune(data, pretrained, tmp_path / "run", "data.num_workers=1")
    for name in ("student", "teacher", "optimizer"):
        files = [r / "checkpoints" / "step-00000006" / f"{name}.safetensors" for r in (whole, tmp_path / "run")]
        first, second = (load_file(file) for file in files)
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first), name


def test_the_average_is_what_is_kept_for_use(whole) -> None:
    folder = whole / "checkpoints" / "step-00000006"
    used, average, last = (
        load_file(f)
        for f in (whole / "classifier.safetensors", folder / "teacher.safetensors", folder / "student.safetensors")
    )
    assert all(torch.equal(used[k], average[k]) for k in average)
    assert any(not torch.equal(used[k], last[k]) for k in last)


def test_it_learns(data, tmp_path) -> None:
    model = [
        "data.num_frames=4",
        "data.frame_size_px=[16,16]",
        *[k for k in PRETRAIN if k.startswith("model.") and "coder" not in k and "predictor" not in k],
    ]
    keys = [
        *model,
        *PLAIN,
        "augment.flip=false",
        "augment.crop_area=[0.9,1]",
        "train.steps=80",
        "data.cache_gib=0.1",
        "optim.base_lr=0.2",
        "train.save_every_steps=100",
    ]
    assert tune(data, None, tmp_path, *keys, "optim.average_decay=null", "optim.layer_decay=1")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] > 1 and lines[-1]["loss"] < 0.6 and lines[-1]["held_out/top1"] > 0.8


def test_accumulation_equals_the_whole_batch(data, tmp_path) -> None:
    """Without mixing, which belongs to the micro batch."""
    losses = []
    for micro in (6, 2):
        keys = [
            f"engine.micro_batch_size={micro}",
            "data.num_frames=4",
            "data.frame_size_px=[16,16]",
            "model.patch_px=4",
        ]
        keys += ["model.width=32", "model.depth=2", "model.num_heads=2", *PLAIN, "augment.erase_probability=0.5"]
        assert tune(data, None, tmp_path / str(micro), *keys)
        lines = (tmp_path / str(micro) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_average_follows_its_formula(data) -> None:
    given = [
        *KEYS,
        f"data.root={data}",
        "train.output=x",
        "data.num_frames=4",
        "data.frame_size_px=[16,16]",
        "model.patch_px=4",
    ]
    config = load_finetune_config(None, [*given, "model.width=32", "model.depth=1", "model.num_heads=2", *PLAIN])
    model = build_classifier(config, 3)
    step, engine = FinetuneStep(config, model), PlainEngine(model, config, torch.device("cpu"))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    clip = torch.randn(6, 3, 4, 16, 16)
    batch = Batch(clip, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6))
    result, _ = step(engine, clip, BatchSlice(0, 6, 6), 0, 10, batch)
    engine.backward(result.loss)
    engine.step(0.1)
    step.after_update(engine, 0, 10)
    for name, average in step.beside.named_parameters():
        torch.testing.assert_close(average, 0.9 * start[name] + 0.1 * dict(model.named_parameters())[name])
        assert not average.requires_grad


def test_soft_cross_entropy() -> None:
    logits, target = torch.randn(4, 5, dtype=torch.float32), torch.rand(4, 5).softmax(1)
    expected = -(target.double() * logits.double().log_softmax(1)).sum(1).mean()
    assert float(soft_cross_entropy(logits.bfloat16().float(), target)) == pytest.approx(float(expected), abs=0.05)
    assert float(soft_cross_entropy(logits, target)) == pytest.approx(float(expected), abs=1e-6)


def refused(data: Path, tmp_path: Path, *keys: str) -> str:
    given = [*KEYS, f"data.root={data}", f"train.output={tmp_path / 'x'}", *keys]
    with pytest.raises(UserError) as error:
        finetune(finetune_config(None, given))
    return str(error.value)


def manifest(tmp_path: Path, data: Path, labels: list[int], classes: list[str]) -> Path:
    rows = [Row(f"{n}.mkv", label) for n, label in enumerate(labels)]
    return write_manifest(tmp_path / "manifest", "odd", data, {"train": rows, "validation": rows[:2]}, classes)


def test_bad_input_is_named(data, tmp_path, capsys) -> None:
    assert "is empty" in refused(manifest(tmp_path / "a", data, [], ["a", "b"]), tmp_path)
    assert "samples have no label, the first: 1.mkv" in refused(
        manifest(tmp_path / "b", data, [0, -1], ["a", "b"]), tmp_path
    )
    assert "label 2; expected -1 to 1" in refused(manifest(tmp_path / "c", data, [0, 2], ["a", "b"]), tmp_path)
    assert "has one class, 'a'; expected labels of at least two classes" in refused(
        manifest(tmp_path / "d", data, [0, 0], ["a"]), tmp_path
    )
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "1.mkv").symlink_to(data / "1.mkv")
    assert "has no labels" in refused(folder, tmp_path)
    assert "data.crop, data.flip: keys of pretraining" in refused(data, tmp_path, "data.flip=true")
    assert "augment.flipp" in refused(data, tmp_path, "augment.flipp=true")


def test_a_class_without_samples_is_said(data, tmp_path, capsys) -> None:
    folder = manifest(tmp_path, data, [0, 1, 0, 1, 0, 1], ["a", "b", "nobody"])
    small = ["data.num_frames=4", "data.frame_size_px=[16,16]", "model.patch_px=4", "model.width=32", "model.depth=1"]
    assert tune(folder, None, tmp_path / "run", *small, "model.num_heads=2", "train.steps=1")
    said = capsys.readouterr().out
    assert "1 of 3 classes have no training sample: nobody" in said and "init.weights is not set" in said


def test_other_settings_and_other_runs_are_not_resumed(data, pretrained, whole, tmp_path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    with pytest.raises(UserError, match="optim.layer_decay: 0.5, but the run in .* was started with 0.75") as told:
        tune(data, pretrained, run, "optim.layer_decay=0.5")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    assert f"--config {run / 'config.yaml'}" in str(told.value)
    assert finetune(finetune_config(run / "config.yaml", [f"train.output={run}"]))
    found, expected = (folder / "checkpoints/step-00000006/student.safetensors" for folder in (run, whole))
    assert found.read_bytes() == expected.read_bytes()
    shutil.copytree(pretrained, tmp_path / "pretrained")
    with pytest.raises(UserError, match="classes.json does not exist|is a pretrain run; expected another train.output"):
        tune(data, pretrained, tmp_path / "pretrained")


def test_an_older_run_from_mae_weights_resumes_with_its_fixed_positions(data, tmp_path) -> None:
    """An earlier version did not train MAE's table: such a run was started with model.positions=sincos2d and says so."""
    other = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    table = F.pad(fixed_table("sincos2d", (1, 4, 4), 32), (0, 0, 1, 0))[None]
    torch.save({"model": {**other.state_dict(), "pos_embed": table}}, tmp_path / "mae.pth")
    out, keys = tmp_path / "run", ["model.num_heads=2", "model.drop_path=0"]

    def go(run: Path, *more: str) -> dict[str, torch.Tensor]:
        assert tune(data, tmp_path / "mae.pth", run, *keys, *more)
        return load_file(run / "checkpoints" / "step-00000006" / "student.safetensors")

    expected = go(out, "model.positions=sincos2d")
    for attempt in range(2):  # the second reads what the first wrote
        shutil.rmtree(out / "checkpoints" / "step-00000006")
        found = go(out)
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()), attempt
    with pytest.raises(UserError, match="model.positions: learned, but the run in .* was started with sincos2d"):
        go(out, "model.positions=learned")
    assert "encoder.positions.table" in go(tmp_path / "new") and "encoder.positions.table" not in expected

"""Whole runs on videos and images: resume, logs, shares, and that both are learned."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hpm_video.cli import main
from hpm_video.config import load_config
from hpm_video.config.geometry import Geometry, image_data
from hpm_video.costs.flops import count_step, run_flops
from hpm_video.data.mixture import ImageSteps
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.train.run import num_steps
from hpm_video.types import Batch, BatchSlice, UserError

TINY = (
    "preset=hpm_teacher data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=2 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.75 mask.hard_share_start=0.5 optim.batch_size=4 optim.base_lr=0.1 train.steps=8 train.log_every_steps=1 "
    "train.measure_every_steps=4 train.save_every_steps=3 train.num_pictures=1 train.keep_checkpoints=3 engine.precision=fp32 "
    "engine.num_threads=1 model.drop_path=0.1"
).split()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A colour with faint waves, moving in videos/, still in images/."""
    root, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(0)
    for name in ("videos", "images"):
        (root / name).mkdir()
    place = np.arange(16)
    for number in range(8):
        for still in (True, False):
            speed, (a, b) = 0 if still else rng.uniform(0.2, 1), rng.uniform(0.2, 0.5, 2)
            phase = (np.arange(12) * speed)[:, None, None] + a * place[:, None] + b * place
            frames = (rng.uniform(20, 235, 3) + 20 * np.sin(phase)[..., None]).astype(np.uint8)
            if still:
                Image.fromarray(frames[0]).save(root / "images" / f"{number}.png")
            else:
                write_video(root / "videos" / f"{number}.mkv", frames, 10)
    return root


def run(root: Path, out: Path, *keys: str) -> list[dict]:
    words = [*TINY, f"data.root={root / 'videos'}", f"images.root={root / 'images'}", f"train.output={out}", *keys]
    assert main(["pretrain", *words]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def same(one: Path, other: Path, step: int) -> bool:
    folders = [run / "checkpoints" / f"step-{step:08d}" for run in (one, other)]
    pairs = [[load_file(f / f"{name}.safetensors") for f in folders] for name in ("student", "teacher", "optimizer")]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


@pytest.mark.parametrize(
    "keys", [[], ["data.num_workers=2", "engine.micro_batch_size=2"], ["objective.target=teacher_features"]]
)
def test_resume_is_bitwise_and_losses_are_logged_by_kind(root, tmp_path, keys) -> None:
    whole = run(root, tmp_path / "whole", *keys)
    chosen = [step in ImageSteps(0.5, 0) for step in range(8)]
    assert sum(chosen) == 4
    for line, image in zip(whole, chosen, strict=True):
        mine, other = ("_image", "") if image else ("", "_image")
        assert {f"loss{mine}", f"pixel_loss{mine}", f"ranking_loss{mine}"} <= line.keys()
        assert not {f"loss{other}", f"pixel_loss{other}"} & line.keys()
    assert "held_out/hardness_gain" in whole[0] and "held_out/hardness_gain" in whole[4]
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "half" / "checkpoints" / f"step-{step:08d}")  # as if stopped after step 3
    resumed = run(root, tmp_path / "half", *keys)
    assert same(tmp_path / "whole", tmp_path / "half", 8)
    assert [{k: v for k, v in line.items() if "loss" in k} for line in resumed] == [
        {k: v for k, v in line.items() if "loss" in k} for line in whole
    ]


def test_share_zero_is_no_images(root, tmp_path) -> None:
    run(root, tmp_path / "zero", "images.share=0")
    run(root, tmp_path / "none", "images.root=null")
    assert same(tmp_path / "zero", tmp_path / "none", 8)


def test_both_are_learned(root, tmp_path) -> None:
    keys = (
        "train.steps=100 train.save_every_steps=1000 train.measure_every_steps=50 optim.batch_size=16 data.cache_gib=1 "
    )
    keys += "data.crop=center objective.target=raw model.drop_path=0 optim.warmup_share=0.1 train.log_every_steps=2"
    lines = run(root, tmp_path / "run", *keys.split())
    for name in ("pixel_loss", "pixel_loss_image"):
        values = [line[name] for line in lines if name in line]
        assert len(values) == 50 and np.mean(values[-5:]) < 0.3 * np.mean(values[:5]), name


def test_an_image_has_the_tokens_and_units_of_the_first_time_step(tiny_config, smooth_clip) -> None:
    config = tiny_config(images__root="x", mask__unit="block", mask__block=[2, 2, 1], model__positions="sincos3d")
    student = Student.of(config)
    step = PretrainStep(config, student, CPU)
    video = smooth_clip(config, 2)
    image = video[:, :, :1].expand(-1, -1, 2, -1, -1)
    first = torch.arange(16).expand(2, -1)
    still = torch.cat([image, video[:, :, 2:]], dim=2)
    assert torch.equal(student.encoder(image, first), student.encoder(still, first))
    layout = step.layouts["image"]
    assert layout.units.shape == (8, 2) and sorted(layout.units.flatten().tolist()) == list(range(16))
    assert layout.num_masked == 6 and Geometry.of_images(config).grid == (1, 4, 4)
    in_step_0 = step.units[:, :2]  # of each unit of the video, what it has in time step 0
    assert torch.equal(in_step_0, layout.units)


@pytest.mark.parametrize("mode", ["hpm", "random", "predictor_only", "inverted"])
@pytest.mark.parametrize("view", ["all", "partial"])
def test_every_mode_masks_images(tiny_config, smooth_clip, local_engine, mode, view) -> None:
    config = tiny_config(
        images__root="x",
        images__share=0.9,
        mask__mode=mode,
        teacher__view=view,
        model__cls_token=True,
        mask__hard_share_start=0.5,
    )
    student = Student.of(config)
    step, image = PretrainStep(config, student, CPU), smooth_clip(config, 4)[:, :, :2]
    batch = Batch(image, torch.full((4,), -1), torch.arange(4), kind="image")
    result, journey = step(local_engine(student), image, BatchSlice(0, 4, 4), 5, 10, batch)
    assert torch.isfinite(result.loss) and "pixel_loss_image" in result.metrics
    assert journey.mask.masked.shape == (4, 16) and (journey.mask.masked.sum(1) == 12).all()
    if mode == "hpm":
        hardest = journey.difficulty.topk(6, dim=1).indices
        assert journey.mask.masked[:, journey.units[:, 0]].gather(1, hardest).all()


def test_steps_and_cost_of_a_mixed_run() -> None:
    keys = [
        "data.root=x",
        "train.output=y",
        "images.root=z",
        "images.share=0.75",
        "train.epochs=2",
        "optim.batch_size=10",
    ]
    config = load_config(None, keys)
    assert num_steps(config, 100) == 80  # 20 of videos, twice 100 samples in tens
    image = Geometry.of_images(config)
    assert (image.num_units, image.num_masked, image.clip_shape[1]) == (196, 176, 2)
    assert (image_data(config).num_frames, image_data(config).root) == (2, "z")
    config.mask.mode = "random"
    one = (3 * count_step(config).forward, 3 * count_step(config, image).forward)
    assert run_flops(config, 80) == pytest.approx(2 * 10 * (20 * one[0] + 60 * one[1]))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["images.root=/nowhere"], ["images.root: /nowhere does not exist"]),
        (["images.share=1"], ["images.share", "leaves no video"]),
    ],
)
def test_what_is_wrong_with_the_images_is_named(root, tmp_path, capsys, keys, words) -> None:
    given = [f"data.root={root / 'videos'}", f"images.root={root / 'images'}", f"train.output={tmp_path}", *keys]
    assert main(["pretrain", *TINY, *given]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words) and said.startswith("error: ")


def test_other_shares_are_another_run(root, tmp_path, capsys) -> None:
    run(root, tmp_path / "run")
    given = [f"data.root={root / 'videos'}", f"images.root={root / 'images'}", f"train.output={tmp_path / 'run'}"]
    assert main(["pretrain", *TINY, *given, "images.share=0.25"]) == 1
    assert "images.share: 0.25, but the run in" in capsys.readouterr().err
    with pytest.raises(UserError, match="images.share"):
        load_config(None, ["data.root=x", "train.output=y", "images.share=1.5"])

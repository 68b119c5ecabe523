"""Each recipe of configs/ that names VideoMAE against the script it names: absolute rates, counts of videos, schedules value by
value, and the rate and decay of each layer."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from hpm_video.config import FinetuneConfig, load_config, load_finetune_config
from hpm_video.config.data_sets import DATA_SETS
from hpm_video.method.schedules import momentum_at
from hpm_video.models.classifier import Classifier
from hpm_video.models.encoder import resolve_size
from hpm_video.train.optim import lr_at, lr_scales, parameter_groups, peak_lr
from hpm_video.train.run import num_steps

CONFIGS = Path(__file__).parents[2] / "configs"
GIVEN = ["data.root=x", "train.output=x"]


class Script(NamedTuple):
    """Arguments of a script; what it does not give: the defaults of run_class_finetuning.py. Rates are for 256 videos."""

    videos: int  # of a step: --batch_size x GPUs
    num_sample: int  # clips of each
    lr: float
    min_lr: float
    epochs: int  # of videos
    layer_decay: float = 0.75
    drop_path: float = 0.1
    fc_drop_rate: float = 0.0
    warmup_epochs: int = 5
    stride: int | None = 4  # --sampling_rate; None: segments


# Source: github.com/MCG-NJU/VideoMAE, commit 14ef8d8, scripts/{ssv2,kinetics,ucf101}/videomae_vit_base_*/finetune.sh
FINETUNE = {
    "ssv2": Script(8 * 64, 1, 5e-4, 1e-6, 50, stride=None),  # ..._epoch_800
    "k400": Script(8 * 64, 1, 1e-3, 1e-6, 100),  # ..._epoch_800
    "ucf101": Script(16 * 8, 2, 5e-4, 1e-5, 100, layer_decay=0.7, drop_path=0.2, fc_drop_rate=0.5),  # ..._epoch_3200
}
LONGER = {  # for the weights of more epochs: what the comments of the recipes give
    "ssv2": Script(6 * 64, 2, 5e-4, 1e-6, 30, stride=None),  # ..._epoch_2400
    "k400": Script(6 * 64, 2, 5e-4, 1e-6, 75),  # ..._epoch_1600
}
LARGE = Script(2 * 64, 2, 2e-3, 1e-6, 35)  # scripts/kinetics/videomae_vit_large_*_epoch_1600/finetune.sh
# ..._epoch_800/pretrain.sh: --batch_size 32 x 64 GPUs, --epochs 801 (its README: the last is there to get around a fault)
PRETRAIN = {"lr": 1.5e-4, "min_lr": 1e-5, "clips": 2048, "epochs": 800, "warmup_epochs": 40, "mask_ratio": 0.9}


def recipe(key: str, *more: str) -> FinetuneConfig:
    return load_finetune_config(CONFIGS / "finetune" / f"{key}_vitb.yaml", [*GIVEN, *more])


def longer(key: str) -> FinetuneConfig:
    comment = (CONFIGS / "finetune" / f"{key}_vitb.yaml").read_text(encoding="utf-8")
    found = re.search(r"^# (data\.repeats=2 .*)$", comment, re.MULTILINE)
    assert found
    return recipe(key, *found[1].split())


def check(config: FinetuneConfig, script: Script, key: str) -> None:
    optim, clips = config.optim, script.videos * script.num_sample
    assert (config.data.repeats, optim.batch_size) == (script.num_sample, clips)
    assert peak_lr(optim) == pytest.approx(script.lr * script.videos / 256)
    assert optim.min_lr * clips / 256 == pytest.approx(script.min_lr * script.videos / 256)
    assert config.train.epochs == script.epochs * script.num_sample
    assert optim.warmup_share == pytest.approx(script.warmup_epochs / script.epochs, rel=1e-4)
    assert (optim.layer_decay, config.model.drop_path) == (script.layer_decay, script.drop_path)
    assert config.model.head_dropout == script.fc_drop_rate
    assert (optim.weight_decay, optim.betas, optim.clip_norm) == (0.05, [0.9, 0.999], None)
    protocol = DATA_SETS["kinetics" if key == "k400" else key].protocol
    assert (config.data.sampling, protocol.sampling) == ("auto", "dense" if script.stride else "segments")
    assert script.stride in (None, config.data.stride) and config.data.rule == "videomae"
    assert (config.augment.mixup_alpha, config.augment.cutmix_alpha) == (0.8, 1.0)  # --mixup, --cutmix
    assert (config.augment.label_smoothing, config.augment.erase_probability) == (0.1, 0.25)  # --smoothing, --reprob
    assert (config.augment.num_ops, config.augment.magnitude, config.augment.magnitude_std) == (4, 7.0, 0.5)  # --aa


@pytest.mark.parametrize("key", FINETUNE)
def test_finetuning_recipe(key) -> None:
    check(recipe(key), FINETUNE[key], key)


@pytest.mark.parametrize("key", LONGER)
def test_finetuning_of_longer_pretraining(key) -> None:
    check(longer(key), LONGER[key], key)


def documented(script: str, run: str) -> list[str]:
    """The keys of a command of docs/reproduce.md, by what it writes."""
    text = (CONFIGS.parent / "docs" / "reproduce.md").read_text(encoding="utf-8")
    found = re.search(rf"^(?:deepspeed )?scripts/{script} (.*train\.output=runs/{run}\b.*)$", text, re.MULTILINE)
    assert found, (script, run)
    return [
        word for word in found[1].split("  #")[0].split() if not word.startswith(("data.root", "train.output", "init."))
    ]


@pytest.mark.parametrize(
    ("key", "run", "script"),
    [
        ("ssv2", "ssv2_b_tuned", FINETUNE["ssv2"]),
        ("ssv2", "ssv2_b_long_tuned", LONGER["ssv2"]),
        ("k400", "k400_b_tuned", FINETUNE["k400"]),
        ("k400", "k400_l_tuned", LARGE),
    ],
)
def test_documented_fine_tuning(key, run, script) -> None:
    check(recipe(key, *documented(f"finetune_{key}.sh", run)), script, key)


@pytest.mark.parametrize(
    ("key", "run", "clips", "epochs"),
    [
        ("ssv2", "ssv2_b", 32 * 64, 800),
        ("ssv2", "ssv2_b_long", 32 * 64, 2400),
        ("k400", "k400_b", 32 * 64, 800),
        ("k400", "k400_l", 8 * 64, 1600),  # --batch_size 8 --decoder_depth 12
    ],
)
def test_documented_pretraining(key, run, clips, epochs) -> None:
    config = load_config(CONFIGS / "pretrain" / f"{key}_vitb.yaml", [*GIVEN, *documented(f"pretrain_{key}.py", run)])
    assert (config.optim.batch_size, config.train.epochs, config.optim.base_lr) == (clips, epochs, PRETRAIN["lr"])
    assert config.optim.warmup_share * epochs == pytest.approx(PRETRAIN["warmup_epochs"], rel=1e-4)
    assert (config.mask.mode, config.mask.decoded_share, config.data.rule) == ("random", 1.0, "videomae")
    assert resolve_size(config.model).decoder_depth == (12 if run.endswith("_l") else 4)


@pytest.mark.parametrize("key", ["ssv2", "k400"])
def test_pretraining_recipe(key) -> None:
    config, known = load_config(CONFIGS / "pretrain" / f"{key}_vitb.yaml", GIVEN), PRETRAIN
    optim = config.optim
    assert (optim.base_lr, optim.min_lr, optim.batch_size) == (known["lr"], known["min_lr"], known["clips"])
    assert config.train.epochs == known["epochs"] and config.mask.ratio == known["mask_ratio"]
    assert optim.warmup_share * config.train.epochs == known["warmup_epochs"]
    assert (optim.weight_decay, optim.betas, optim.eps, optim.clip_norm) == (0.05, [0.9, 0.95], 1e-8, None)
    assert (config.data.repeats, config.data.flip) == (1, False)


def published_rates(peak: float, floor: float, steps: int, warmup: int) -> np.ndarray:
    """From 0 to the peak over `warmup` values, both ends included; then half a cosine to the floor, which it does not reach.
    Source: utils.py, cosine_scheduler (start_warmup_value is 0; --warmup_lr is read, and not used)."""
    down = np.arange(steps - warmup) / (steps - warmup)
    return np.concatenate(
        [peak * np.arange(warmup) / (warmup - 1), floor + (peak - floor) * (1 + np.cos(np.pi * down)) / 2]
    )


@pytest.mark.parametrize("key", FINETUNE)
def test_rate_of_each_step_of_fine_tuning(key) -> None:
    config, script = recipe(key), FINETUNE[key]
    per_epoch = 20  # steps; a data set of so many videos
    steps = num_steps(config, per_epoch * script.videos)
    assert steps == script.epochs * per_epoch
    warmup, scale = script.warmup_epochs * per_epoch, script.videos / 256
    check_rates(config.optim, published_rates(script.lr * scale, script.min_lr * scale, steps, warmup), warmup)


def test_rate_of_each_step_of_pretraining() -> None:
    config = load_config(CONFIGS / "pretrain" / "ssv2_vitb.yaml", GIVEN)
    steps, warmup, scale = num_steps(config, 3 * 2048), 40 * 3, 2048 / 256
    assert steps == 800 * 3
    check_rates(
        config.optim, published_rates(PRETRAIN["lr"] * scale, PRETRAIN["min_lr"] * scale, steps, warmup), warmup
    )


def check_rates(optim, published: np.ndarray, warmup: int) -> None:
    """Equal after the warm-up; in it ours, which has no step of rate 0, is ahead by at most one part of the warm-up."""
    ours = np.array([lr_at(step, len(published), optim) for step in range(len(published))])
    assert np.allclose(ours[warmup:], published[warmup:], rtol=1e-6)
    ahead = (ours - published)[:warmup] * warmup / published.max()
    assert (ahead > -1e-6).all() and (ahead < 1 + 1e-6).all() and published[0] == 0 < ours[0]


# Layer decay 0.75 of ViT-B, from the embedding (0) over 12 blocks to the head (13): 0.75 ** (13 - k).
# Source: optim_factory.py; run_class_finetuning.py gives it num_layers + 2 values.
SCALES_B = (
    "0.0237573 0.0316764 0.0422351 0.0563135 0.0750847 0.100113 0.133484 0.177979 0.237305 0.316406 0.421875 0.5625 0.75 1"
).split()
WIDTH = 768
# Weights with decay: of the embedding 2 x 16 x 16 x 3 x 768, of a block qkv, projection and MLP, 12 x 768 ** 2, and the head's.
# Without: every bias and norm. Of a block 2 norms x 2, q_bias and v_bias (ours has a bias of the keys too, whose gradient is
# zero, as softmax does not see it), projection, MLP 4 + 1: 4 + 2 + 1 + 5 = 12 widths, ours 13.
DECAYED = [2 * 16 * 16 * 3 * WIDTH, *[12 * WIDTH**2] * 12, 174 * WIDTH]
NOT_DECAYED = [WIDTH, *[13 * WIDTH] * 12, 2 * WIDTH + 174]


def test_rate_and_decay_of_each_layer() -> None:
    with torch.device("meta"):
        model = Classifier.of(recipe("ssv2"), 174)
    groups = parameter_groups(model, 0.05, 0.75)
    assert len(groups) == 2 * 14 and {group["weight_decay"] for group in groups} == {0.0, 0.05}
    for decay, expected in ((0.05, DECAYED), (0.0, NOT_DECAYED)):
        of_layer = {
            f"{g['lr_scale']:.6g}": sum(p.numel() for p in g["params"]) for g in groups if g["weight_decay"] == decay
        }
        assert of_layer == dict(zip(SCALES_B, expected, strict=True))
    assert min(lr_scales(model, 0.75).values()) == pytest.approx(0.75**13)


def test_decay_stays_what_it_is() -> None:
    """--weight_decay_end is not given, so that the schedule of the decay is constant; ours has none."""
    groups = parameter_groups(torch.nn.Linear(2, 2), 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]


# HPM: 0.999 to 0.9999 over the first 100 epochs, then constant; share of hard units 0.5 (epoch + 1) / epochs.
# Source: github.com/Haochen-Wang409/HPM, commit c15ae90.
MOMENTA = {0: 0.999, 25: 0.999225, 50: 0.99945, 75: 0.999675, 100: 0.9999, 400: 0.9999, 800: 0.9999}


def test_momentum_of_hpm() -> None:
    config = load_config(None, [*GIVEN, "preset=hpm_paper"])
    assert config.train.epochs == 800
    for epoch, momentum in MOMENTA.items():
        assert math.isclose(momentum_at(epoch / 800, config.teacher), momentum, abs_tol=1e-9)
    assert (config.mask.hard_share_start, config.mask.hard_share_end) == (0.0, 0.5)

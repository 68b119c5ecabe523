"""An image is a clip of one frame: the same road, and the numbers of HPM's image code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig, load_config, load_finetune_config
from hpm_video.config.geometry import Geometry
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.manifest import Manifest
from hpm_video.data.source import open_source
from hpm_video.data.transforms import Normalise
from hpm_video.method.masking.units import make_units
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.train.optim import lr_at
from hpm_video.types import BatchSlice

CONFIGS = Path(__file__).parents[2] / "configs"
REQUIRED = ["data.root=x", "train.output=y"]
CPU = torch.device("cpu")


@pytest.fixture()
def clips_of(tmp_path):
    """The same pictures as PNG files, as lossless videos of one frame, and as folders of one frame."""
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        write_video(tmp_path / f"{number}.mkv", picture[None], 1)
        (tmp_path / f"{number}").mkdir()
        Image.fromarray(picture).save(tmp_path / f"{number}" / "1.png")

    def read(suffix: str) -> torch.Tensor:
        config = DataConfig(root=str(tmp_path), num_frames=1, frame_size_px=[16, 16], crop="random_resized", flip=True)
        source = Manifest.of(tmp_path, [Row(f"{n}{suffix}") for n in range(3)], [], "test")
        dataset = ClipDataset(source, config, 0, training=True)
        return Normalise(config)(torch.stack([dataset[n, n].clip for n in range(3)]))

    return read


@pytest.mark.parametrize("mode", ["hpm", "random"])
def test_an_image_is_a_one_frame_clip_bitwise(tiny_config, local_engine, clips_of, mode) -> None:
    config = tiny_config(
        image=True, mask__mode=mode, model__cls_token=True, model__positions="sincos2d", mask__hard_share_start=0.5
    )
    student = Student.of(config)
    step, engine = PretrainStep(config, student, CPU), local_engine(student)
    image, video, folder = (clips_of(suffix) for suffix in (".png", ".mkv", ""))
    assert torch.equal(image, video) and torch.equal(image, folder)
    assert torch.equal(student.encoder(image), student.encoder(video))
    of_image, of_video = (step(engine, clip, BatchSlice(0, 3, 3), 4, 10)[1] for clip in (image, video))
    for name in ("masked", "visible", "hidden"):
        assert torch.equal(getattr(of_image.mask, name), getattr(of_video.mask, name))
    assert torch.equal(of_image.losses.total, of_video.losses.total) and float(of_image.losses.total.detach()) > 0
    assert torch.equal(of_image.losses.patch_loss, of_video.losses.patch_loss)


def test_token_and_tube_are_the_same_unit_of_an_image() -> None:
    assert torch.equal(make_units((1, 14, 14), (1, 1, 1)), torch.arange(196)[:, None])


@pytest.mark.parametrize(("name", "width", "depth", "heads"), [("in1k_vitb", 768, 12, 12), ("in1k_vitl", 1024, 24, 16)])
def test_the_shipped_models_have_hpms_counts(name, width, depth, heads) -> None:
    """147 of 196 patches masked, 49 visible, and the parameters of HPM's official image model (its source), but for the
    bias of the projection (512) and the loss head, whose 768 outputs are averaged there: here it has one."""
    config = load_config(CONFIGS / "pretrain" / f"{name}.yaml", REQUIRED)
    geometry = Geometry.of(config)
    assert (geometry.grid, geometry.num_units, geometry.num_masked) == ((1, 14, 14), 196, 147)
    with torch.device("meta"):
        student = Student.of(config)

    def stack(blocks: int, w: int) -> int:
        return blocks * (12 * w * w + 13 * w) + 2 * w  # qkv, proj, mlp, two norms; last norm

    encoder = 768 * width + width + width + stack(depth, width)  # patches, class token, blocks
    narrow = 512
    decoders = width * narrow + narrow + 2 * stack(8, narrow) + (narrow * 768 + 768)
    assert sum(p.numel() for p in student.parameters()) == encoder + decoders + (narrow + 1)
    assert student.encoder.stack.blocks[0].attn.num_heads == heads
    assert {b.attn.num_heads for s in (student.decoder, student.predictor) for b in s.blocks} == {16}
    objective, teacher = config.objective, config.teacher
    assert (objective.target, objective.ranking, objective.ranking_reaches_encoder) == ("raw", "relative", True)
    assert (config.mask.hard_share_start, config.mask.hard_share_end, teacher.view) == (0.0, 0.5, "all")
    assert teacher.momentum_rise * config.train.epochs == 100 and config.optim.warmup_share * config.train.epochs == 40
    assert lr_at(400, 8000, config.optim) == pytest.approx(1.5e-4 * 8) and lr_at(8000, 8000, config.optim) == 0
    baseline = load_config(CONFIGS / "pretrain" / f"{name}.yaml", [*REQUIRED, "mask.mode=random"])
    assert Geometry.of(baseline).num_masked == 147


@pytest.mark.parametrize(
    ("name", "lr", "decay", "path", "epochs", "batch"),
    [("in1k_vitb", 5e-4, 0.8, 0.1, 100, 48 * 8), ("in1k_vitl", 5e-4, 0.8, 0.1, 50, 64 * 8)],
)
def test_the_fine_tuning_recipes_are_hpms(name, lr, decay, path, epochs, batch) -> None:
    """FINETUNE.md and scripts/ of HPM's code."""
    config = load_finetune_config(CONFIGS / "finetune" / f"{name}.yaml", REQUIRED)
    optim, augment = config.optim, config.augment
    assert (optim.base_lr, optim.layer_decay, config.model.drop_path, config.train.epochs) == (lr, decay, path, epochs)
    assert optim.warmup_share * epochs == 5 and optim.betas == [0.9, 0.999] and optim.batch_size == batch
    assert lr_at(10**6, 10**6, optim) == pytest.approx(1e-6, rel=1e-3)
    assert (augment.num_ops, augment.magnitude, augment.mixup_alpha, augment.cutmix_alpha) == (2, 9, 0.8, 1)
    assert (config.test.num_clips, config.test.num_crops) == (1, 1)


def test_pictures_of_a_plain_folder_are_samples_where_clips_have_one_frame(tmp_path) -> None:
    for name in ("a/1.png", "b/2.JPG"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    write_video(tmp_path / "c.mkv", np.zeros((2, 16, 16, 3), np.uint8), 1)
    assert open_source(DataConfig(root=str(tmp_path), num_frames=1), "train").paths == ["a/1.png", "b/2.JPG", "c.mkv"]
    assert open_source(DataConfig(root=str(tmp_path), num_frames=2), "train").paths == ["c.mkv"]

"""Pretraining that goes on from weights: what a student and its teacher take, what they do not, and what is said of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hpm_video.cli import main
from hpm_video.config import load_config, load_finetune_config, to_yaml
from hpm_video.models.classifier import Classifier
from hpm_video.models.interpolate import interpolate_table, resize_kernel
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.checkpoints import Checkpoint, load_weights, save_checkpoint
from hpm_video.runs.settings import save_classes
from hpm_video.train.pretrain import pretrain_config
from hpm_video.types import UserError
from hpm_video.weights.convert_out import to_videomae
from hpm_video.weights.load import load_student
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_student

REQUIRED = ["data.root=x", "train.output=y", "mask.difficulty=teacher"]


def shaken(student: Student) -> Student:
    for parameter in student.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return student


@pytest.fixture()
def pretrained(tmp_path, tiny_config):
    """(run folder with one checkpoint, its student, its teacher's weights)."""

    def make(**overrides):
        config = tiny_config(**overrides)
        run, student = tmp_path / "run", shaken(Student.of(config))
        run.mkdir()
        (run / "config.yaml").write_text(to_yaml(config))
        weights = {n: p.detach() for n, p in student.named_parameters()}
        pixels = ("pixel_head.", "decoder.")
        teacher = {n: t + 1 for n, t in weights.items() if not n.startswith(pixels)}
        save_checkpoint(run, Checkpoint(weights, teacher, {}, {"step": 3, "machine": {}}), keep=1)
        return run, student, teacher

    return make


def make_student(weights, *overrides: str) -> Student:
    """With other first weights than any student before."""
    torch.manual_seed(9)
    return Student.of(
        load_config(None, [*REQUIRED, "mask.ratio=0.75", *overrides], base=weights.settings(pretraining=True))
    )


def test_a_run_gives_all_it_has(pretrained) -> None:
    run, student, teacher = pretrained()
    weights = read_weights(run)
    model = make_student(weights)
    report = fill_student(model, weights, "norm_channel").splitlines()
    own = dict(student.named_parameters())
    assert all(torch.equal(p, own[n]) for n, p in model.named_parameters())
    assert report[0].startswith(f"weights: {len(own)} of {len(own)} tensors loaded from ") and report[1:] == [
        "  new: nothing",
        "  dropped: nothing",
    ]
    model.drop_pixel_decoder()
    assert weights.teacher is not None
    assert f"{len(teacher)} of {len(teacher)}" in fill_student(model, weights.teacher, "norm_channel")
    assert all(torch.equal(p, teacher[n]) for n, p in model.named_parameters())


def test_a_cross_attending_run_goes_on_in_its_own_kind_alone(pretrained) -> None:
    run, student, _ = pretrained(model__decoder_attention="cross")
    weights, own = read_weights(run), dict(student.named_parameters())
    model = make_student(weights)  # the key is one of those that the weights say
    assert "new: nothing" in fill_student(model, weights, "norm_channel")
    assert all(torch.equal(p, own[n]) for n, p in model.named_parameters())
    report = fill_student(make_student(weights, "model.decoder_attention=self"), weights, "norm_channel")
    assert "(pixel decoder: trained with model.decoder_attention=cross, this model has self)" in report


def test_another_grid_and_patch(pretrained) -> None:
    """The encoder is moved; of the decoder all that has no pixels in it stays."""
    run, student, _ = pretrained(model__positions="learned")
    weights = read_weights(run)
    model = make_student(weights, "data.frame_size_px=[48,32]", "model.patch_px=8")
    report = fill_student(model, weights, "norm_channel")
    expected = interpolate_table(student.positions.table.detach(), (2, 4, 4), (2, 6, 4))
    assert torch.equal(model.positions.table, expected)
    kernel = student.encoder.embed.linear.weight.detach()
    assert torch.equal(model.encoder.embed.linear.weight, resize_kernel(kernel, (2, 4), (2, 8)))
    assert torch.equal(model.predictor.blocks[0].attn.qkv.weight, student.predictor.blocks[0].attn.qkv.weight)
    assert "new: pixel_head (2) (pixel head: pixel_head.weight is [96, 16], this model has [384, 16])" in report


@pytest.mark.parametrize(
    ("words", "target", "new", "reason"),
    [
        (["objective.target=dino"], "dino", "pixel_head (2)", "pixel head: it predicts another target"),
        (
            ["model.predictor_depth=2"],
            "raw",
            "predictor",
            "predictor: predictor.blocks.1.norm1.weight is not in the weights",
        ),
        (
            ["model.decoder_width=32"],
            "raw",
            "project (1)",
            "pixel decoder: mask_token is [1, 1, 16], this model has [1, 1, 32]",
        ),
        (
            ["model.decoder_attention=cross"],
            "raw",
            "decoder (16)",
            "pixel decoder: trained with model.decoder_attention=self, this model has cross",
        ),
        (["mask.mode=random"], "raw", "nothing", ""),
    ],
)
def test_parts_that_do_not_fit_start_anew_and_say_why(pretrained, words, target, new, reason) -> None:
    run, student, _ = pretrained()
    weights = read_weights(run)
    model = make_student(weights, *words)
    before = {n: p.clone() for n, p in model.named_parameters()}
    report = fill_student(model, weights, target)
    line = next(line for line in report.splitlines() if line.startswith("  new: "))
    assert new in line and reason in line
    own = dict(student.named_parameters())
    for name, parameter in model.named_parameters():
        is_new = f"{name.partition('.')[0]} (" in line
        assert torch.equal(parameter, before[name] if is_new else own[name]), name


def test_weights_of_videomae_go_on(tmp_path, tiny_config) -> None:
    """Encoder and pixel decoder are theirs, with the same outputs; the predictor is new."""
    theirs = shaken(Student.of(tiny_config(mask__mode="random"))).eval()
    torch.save({"model": to_videomae(theirs, theirs.encoder)}, tmp_path / "checkpoint.pth")
    weights = read_weights(tmp_path / "checkpoint.pth")
    given = [
        "model.num_heads=2",
        "model.decoder_heads=2",
        "data.num_frames=4",
        "data.frame_size_px=[16,16]",
        "model.position_grid=null",
    ]
    model = make_student(weights, *given).eval()
    report = fill_student(model, weights, "norm_channel")
    assert "new: predictor" in report and "predictor: not in the weights" in report and "dropped: nothing" in report
    clip, order = torch.randn(2, 3, 4, 16, 16), torch.rand(2, 32).argsort(1)
    with torch.no_grad():
        pair = [m(clip, order[:, :8].sort(1)[0], order[:, 8:].sort(1)[0]).pixels for m in (model, theirs)]
    torch.testing.assert_close(*pair, atol=1e-5, rtol=0)


def test_a_cross_attending_decoder_starts_anew_beside_the_encoder_of_videomae(tmp_path, tiny_config) -> None:
    theirs = shaken(Student.of(tiny_config(mask__mode="random")))
    torch.save({"model": to_videomae(theirs, theirs.encoder)}, tmp_path / "checkpoint.pth")
    weights = read_weights(tmp_path / "checkpoint.pth")
    given = ["model.num_heads=2", "model.decoder_heads=2", "data.num_frames=4", "data.frame_size_px=[16,16]"]
    model = make_student(
        weights, *given, "model.position_grid=null", "model.decoder_attention=cross", "mask.mode=random"
    )
    report = fill_student(model, weights, "norm_channel")
    new = "new: mask_token (1), project (1), decoder (16), pixel_head (2)"
    assert f"{new} (pixel decoder: trained with model.decoder_attention=self, this model has cross)" in report
    assert torch.equal(model.encoder.embed.linear.weight, theirs.encoder.embed.linear.weight)


def test_the_bias_of_maes_projection_moves_only_with_its_decoder(pretrained) -> None:
    """It goes into the encoder's last norm, which stays as it is where that decoder is not taken."""
    run, student, _ = pretrained()
    weights = read_weights(run)
    weights = dataclasses.replace(weights, rest={**weights.rest, "project.bias": torch.randn(16)})
    for width, same in ((16, False), (32, True)):
        model = make_student(weights, f"model.decoder_width={width}")
        report = fill_student(model, weights, "raw")
        assert torch.equal(model.encoder.stack.norm.bias, student.encoder.stack.norm.bias) == same
        assert ("project (2)" in report) == same


def test_a_fine_tuned_encoder_can_be_pretrained_further(tmp_path, tiny_config) -> None:
    """It has no last norm where it pooled the mean: that is new, and said."""
    base = {
        "model": {"patch_px": 4, "tubelet": 2, "width": 32, "depth": 2, "num_heads": 2},
        "data": {"num_frames": 4, "frame_size_px": [16, 16]},
    }
    config = load_finetune_config(None, REQUIRED[:2], base)
    classifier = Classifier.of(config, 3)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    save_classes(tmp_path, ["a", "b", "c"])
    save_checkpoint(
        tmp_path, Checkpoint(dict(classifier.named_parameters()), None, {}, {"step": 1, "machine": {}}), keep=1
    )
    weights = read_weights(tmp_path)
    model = make_student(weights)
    report = fill_student(model, weights, "raw")
    assert "encoder.stack.norm (2), " in report and "dropped: head (2), norm (2)" in report
    assert torch.equal(model.encoder.embed.linear.weight, classifier.encoder.embed.linear.weight)


def test_an_image_model_starts_a_video_one(pretrained) -> None:
    run, student, _ = pretrained(image=True, model__positions="sincos2d")
    weights = read_weights(run)
    model = make_student(weights, "data.num_frames=4", "model.tubelet=2", "model.positions=sincos3d")
    report = fill_student(model, weights, "raw")
    assert "embed.linear.weight interpolated from 1 x 4 x 4 to 2 x 4 x 4" in report
    picture = torch.randn(2, 3, 1, 16, 16)
    tokens = model.encoder.embed(picture.expand(-1, -1, 4, -1, -1), None)
    torch.testing.assert_close(tokens[:, 16:], student.encoder.embed(picture, None), atol=1e-5, rtol=0)
    assert torch.equal(model.decoder.blocks[0].mlp.fc1.weight, student.decoder.blocks[0].mlp.fc1.weight)


def test_a_teacher_beside_the_weights_of_hpm(pretrained, tmp_path) -> None:
    """As HPM's code keeps it: an average under ema_state_dict."""
    _, student, _ = pretrained()
    names = to_videomae(student, student.encoder)
    content = {
        "state_dict": {f"module.{n}": t for n, t in names.items()},
        "ema_state_dict": {n: t + 1 for n, t in names.items()},
    }
    torch.save(content, tmp_path / "a.pth")
    weights = read_weights(tmp_path / "a.pth")
    assert weights.teacher is not None
    name = "stack.norm.weight"
    assert torch.equal(weights.teacher.tensors[name], weights.tensors[name] + 1)
    torch.save({"ema_state_dict": names}, tmp_path / "b.pth")
    alone = read_weights(tmp_path / "b.pth")
    assert alone.teacher is None and torch.equal(alone.tensors[name], names["encoder.norm.weight"])


def test_a_pretraining_goes_on_from_another_one(tmp_path, capsys) -> None:
    """The command line: sizes are the weights', students and teachers start where the first run ended, and it resumes."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for number in range(6):
        write_video(tmp_path / "videos" / f"{number}.mkv", rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), 10)
    sizes = (
        "data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4 model.width=32 model.depth=2 model.num_heads=2 "
        "model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1"
    ).split()
    keys = (
        "preset=hpm_teacher data.num_workers=0 data.num_held_out=2 mask.ratio=0.75 mask.hard_share_start=0.5 optim.batch_size=4 train.num_pictures=0 "
        "engine.precision=fp32 engine.num_threads=1 teacher.momentum_start=0.5 teacher.momentum_end=0.5 train.save_every_steps=1"
    ).split()
    keys.append(f"data.root={tmp_path / 'videos'}")
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["pretrain", *keys, *sizes, f"train.output={first}", "train.steps=2", "optim.base_lr=0.05"]) == 0
    more = [
        *keys,
        f"init.weights={first}",
        f"train.output={second}",
        "train.steps=2",
        "optim.base_lr=0",
        "optim.min_lr=0",
    ]
    capsys.readouterr()
    assert main(["pretrain", *more, "teacher.momentum_start=1", "teacher.momentum_end=1"]) == 0
    said = capsys.readouterr().out
    student, again = load_student(first)[1], load_student(second)[1]
    assert all(torch.equal(p, dict(student.named_parameters())[n]) for n, p in again.named_parameters())
    teachers = [load_tensors(run) for run in (first, second)]
    assert teachers[0].keys() == teachers[1].keys() and all(
        torch.equal(t, teachers[1][n]) for n, t in teachers[0].items()
    )
    assert any(not torch.equal(t, dict(student.named_parameters())[n]) for n, t in teachers[0].items())
    assert said.count("new: nothing") == 2 and "teacher, weights: " in said
    (second / "encoder.safetensors").unlink()
    assert (
        main(["pretrain", *more, "teacher.momentum_start=1", "teacher.momentum_end=1"]) == 0
    )  # it has ended: written again
    assert (second / "encoder.safetensors").is_file()


def load_tensors(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "checkpoints" / "step-00000002" / "teacher.safetensors")


def test_what_the_weights_say_is_the_lowest_layer(pretrained, tmp_path) -> None:
    run, _, _ = pretrained()
    file = tmp_path / "more.yaml"
    file.write_text(f"init: {{weights: {run}}}\nmodel: {{decoder_depth: 2}}\nmask: {{ratio: 0.75}}\n")
    config = pretrain_config(file, [*REQUIRED, "data.num_frames=8"])
    assert (config.model.width, config.model.decoder_depth, config.model.predictor_depth) == (32, 2, 1)
    assert config.data.num_frames == 8 and config.model.position_grid == [2, 4, 4]
    with pytest.raises(UserError, match="init.weights: .*nowhere does not exist"):
        pretrain_config(file, [*REQUIRED, "init.weights=nowhere"])


def test_load_weights_is_strict_where_this_is_not(pretrained) -> None:
    """A resumed run takes all or nothing."""
    run, student, _ = pretrained()
    model = make_student(read_weights(run), "model.predictor_depth=2")
    with pytest.raises(UserError, match="is of another model"):
        load_weights(model, dict(student.named_parameters()), run)

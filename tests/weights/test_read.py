"""Loading pretrained weights: every source, every report, every wrong file."""

import argparse
import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hpm_video.config import load_finetune_config, to_yaml
from hpm_video.models.classifier import Classifier
from hpm_video.models.interpolate import interpolate_table, resize_kernel
from hpm_video.models.student import Student
from hpm_video.models.tokens import sincos1d
from hpm_video.runs.checkpoints import Checkpoint, save_checkpoint
from hpm_video.runs.settings import save_classes
from hpm_video.types import UserError
from hpm_video.weights.load import export_run, write_classifier
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_encoder


@pytest.fixture()
def pretrained(tmp_path, tiny_config):
    """(run folder with one checkpoint, its student): 4 frames of 16 px, patches 2 x 4 x 4, grid 2 x 4 x 4, width 32."""

    def make(**overrides):
        config = tiny_config(**overrides)
        run, student = tmp_path / "run", Student.of(config)
        run.mkdir()
        (run / "config.yaml").write_text(to_yaml(config))
        moments = {"pixel_head.bias/exp_avg": torch.zeros(1)}
        weights = dict(student.named_parameters())
        save_checkpoint(run, Checkpoint(weights, None, moments, {"step": 3, "machine": {}}), keep=1)
        return run, student

    return make


def make_classifier(weights, *overrides: str, num_classes: int = 3) -> Classifier:
    config = load_finetune_config(overrides=["data.root=x", "train.output=y", *overrides], base=weights.settings())
    return Classifier.of(config, num_classes).eval()


def same_encoder(model: Classifier, student: Student) -> bool:
    own = dict(student.encoder.named_parameters())
    return all(torch.equal(p, own[n]) for n, p in model.encoder.named_parameters())


@pytest.mark.parametrize("place", ["run", "exported run", "encoder.safetensors", "checkpoint", "student.safetensors"])
def test_every_place_of_a_pretraining_run(pretrained, place) -> None:
    run, student = pretrained()
    path, step = run, run / "checkpoints" / "step-00000003"
    if place in ("exported run", "encoder.safetensors"):
        export_run(run)
        path = run if place == "exported run" else run / place
        shutil.rmtree(run / "checkpoints")
    elif place != "run":
        path = step if place == "checkpoint" else step / place
    weights = read_weights(path)
    model = make_classifier(weights)
    report = fill_encoder(model, weights).splitlines()
    assert same_encoder(model, student)
    assert report[0].startswith("weights: 26 of 30 tensors loaded from ") and report[1] == "  new: head, norm"
    assert report[2].startswith("  dropped: encoder.stack.norm (2)") and len(report) == 3
    assert ("decoder (14), " in report[2]) == (place not in ("exported run", "encoder.safetensors"))


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("exported", [True, False])
def test_a_fine_tuning_run_gives_its_head_to_the_same_classes(pretrained, tmp_path, average, exported) -> None:
    first = read_weights(pretrained()[0])
    before = make_classifier(first)
    config = load_finetune_config(overrides=["data.root=x", "train.output=y"], base=first.settings())
    run = tmp_path / "tuned"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config))
    save_classes(run, ["a", "b", "c"])
    tuned = {name: torch.randn_like(p) for name, p in before.named_parameters()}
    other = {name: p + 1 for name, p in tuned.items()}
    kept = Checkpoint(other if average else tuned, tuned if average else None, {}, {"step": 1, "machine": {}})
    save_checkpoint(run, kept, keep=1)
    if exported:
        write_classifier(run)
    weights = read_weights(run)
    model = make_classifier(weights)
    report = fill_encoder(model, weights, ["a", "b", "c"])
    assert all(torch.equal(p, tuned[n]) for n, p in model.named_parameters())
    assert "30 of 30" in report and "the same 3 classes, and is kept" in report and "new: nothing" in report
    model = make_classifier(weights)
    head = model.head.weight.clone()
    report = fill_encoder(model, weights, ["a", "b", "d"])
    assert torch.equal(model.head.weight, head) and torch.equal(model.norm.weight, tuned["norm.weight"])
    assert "28 of 30" in report and "new: head (its head is for 3 other classes)" in report
    assert "dropped: head (2)" in report


def test_positions_and_patches_of_another_shape(pretrained) -> None:
    run, student = pretrained()
    weights = read_weights(run)
    words = ["data.num_frames=8", "data.frame_size_px=[24, 40]", "model.patch_px=8", "model.tubelet=4"]
    model = make_classifier(weights, *words)
    report = fill_encoder(model, weights)
    kernel = student.encoder.embed.linear.weight.detach()
    assert torch.equal(model.encoder.embed.linear.weight, resize_kernel(kernel, (2, 4), (4, 8)))
    expected = interpolate_table(sincos1d((2, 4, 4), 32), (2, 4, 4), (2, 3, 5))
    assert torch.equal(model.encoder.positions.table, expected)
    assert "embed.linear.weight interpolated from 2 x 4 x 4 to 4 x 8 x 8" in report
    assert "positions from grid 2 x 4 x 4 to 2 x 3 x 5 (table of 2 x 4 x 4, interpolated)" in report
    assert model(torch.randn(2, 3, 8, 24, 40)).shape == (2, 3)


def test_what_was_moved_once_is_moved_again_from_its_first_grid(pretrained, tmp_path) -> None:
    """A fine-tuned model's positions are those of the pretraining, however often the grid changes."""
    first = read_weights(pretrained()[0])
    config = load_finetune_config(
        overrides=["data.root=x", "train.output=y", "data.frame_size_px=[24, 24]"], base=first.settings()
    )
    assert config.model.position_grid == [2, 4, 4]
    run = tmp_path / "tuned"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config))
    save_classes(run, ["a", "b", "c"])
    model = Classifier.of(config, 3)
    save_file({n: p.detach() for n, p in model.named_parameters()}, run / "classifier.safetensors")
    weights = read_weights(run)
    assert weights.grid == (2, 6, 6) and weights.settings()["model"]["position_grid"] == [2, 4, 4]
    again = make_classifier(weights)
    assert "changed" not in fill_encoder(again, weights)
    assert torch.equal(again.encoder.positions.table, model.encoder.positions.table)


def test_learned_positions_are_interpolated(pretrained) -> None:
    run, student = pretrained(model__positions="learned")
    weights = read_weights(run)
    model = make_classifier(weights, "data.num_frames=8", "data.frame_size_px=[16, 24]")
    report = fill_encoder(model, weights)
    table = student.encoder.positions.table.detach()
    assert torch.equal(model.encoder.positions.table, interpolate_table(table, (2, 4, 4), (4, 4, 6)))
    assert "positions.table interpolated from grid 2 x 4 x 4 to 4 x 4 x 6" in report
    fixed = make_classifier(weights, "model.positions=sincos1d")
    assert "positions: sincos1d, trained with learned" in fill_encoder(fixed, weights)


def test_learned_positions_start_from_the_fixed_ones(pretrained) -> None:
    weights = read_weights(pretrained()[0])
    model = make_classifier(weights, "model.positions=learned", "data.frame_size_px=[24, 16]")
    report = fill_encoder(model, weights)
    expected = interpolate_table(sincos1d((2, 4, 4), 32), (2, 4, 4), (2, 6, 4))
    assert torch.equal(model.encoder.positions.table, expected) and "starts as the sincos1d table" in report


def test_an_image_run_starts_a_video_model(pretrained) -> None:
    """A still clip gets the tokens of the picture at each step, before positions are added."""
    run, student = pretrained(image=True, model__positions="sincos2d")
    weights = read_weights(run)
    words = ["data.num_frames=6", "model.tubelet=2", "model.positions=sincos3d"]
    model = make_classifier(weights, *words)
    fill_encoder(model, weights)
    picture = torch.randn(2, 3, 1, 16, 16)
    tokens = model.encoder.embed(picture.expand(-1, -1, 6, -1, -1), None).view(2, 3, 16, 32)
    expected = student.encoder.embed(picture, None)
    torch.testing.assert_close(tokens, expected[:, None].expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["model.width=48"], "its width is 32, this model's 48; expected model.width=32"),
        (["model.depth=3"], "it has 2 blocks, this model 3; expected model.depth=2"),
        (["model.cls_token=true"], "missing, such as cls_token: expected model.cls_token=false"),
    ],
)
def test_a_model_of_another_shape_is_named(pretrained, words, text) -> None:
    weights = read_weights(pretrained()[0])
    model = make_classifier(weights, *words)
    with pytest.raises(UserError, match=text):
        fill_encoder(model, weights)


def test_weights_that_are_not_finite_are_refused(pretrained) -> None:
    weights = read_weights(pretrained()[0])
    weights.tensors["stack.blocks.1.mlp.fc1.bias"][0] = float("nan")
    with pytest.raises(UserError, match="mlp.fc1.bias has values that are not finite"):
        fill_encoder(make_classifier(weights), weights)


class Anything:
    """What a pickle may hold."""


def write_wrong_file(folder: Path, what: str) -> Path:  # noqa: C901
    file = folder / "weights.pth"
    if what == "optimizer":
        file = folder / "optimizer.safetensors"
        save_file({"head.bias/exp_avg": torch.zeros(2)}, file)
    elif what == "optimizer states":
        file = folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": {"param_groups": []}}, file)
    elif what == "ZeRO-3":
        torch.save({"module": {"encoder.patch_embed.proj.weight": torch.zeros(0)}}, file)
    elif what == "web page":
        file.write_text("\n<!DOCTYPE html><html>Sign in</html>")
    elif what == "lfs":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    elif what == "empty":
        file.touch()
    elif what == "truncated":
        torch.save({"a": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:2000])
    elif what == "truncated safetensors":
        save_file({"a": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:2000])
    elif what == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.txt", "text")
    elif what == "text":
        file.write_text("path,label\n")
    elif what == "pickle":
        torch.save({"model": {"a": torch.zeros(2)}, "args": Anything()}, file)
    elif what == "decoder":
        torch.save({"decoder.blocks.0.norm1.weight": torch.zeros(2)}, file)
    elif what == "other architecture":
        torch.save({"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)}, file)
    elif what == "no tensors":
        torch.save({"epoch": 3}, file)
    elif what == "folder":
        file = folder / "videos"
        file.mkdir()
        (file / "a.mp4").touch()
    return file


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("optimizer", "optimizer's moments; the weights are in student.safetensors"),
        ("optimizer states", "expected the checkpoint.s folder, with init.trust_pickle=true"),
        ("ZeRO-3", "ZeRO-3; expected the checkpoint.s whole folder"),
        ("web page", "web page"),
        ("lfs", "git lfs pull"),
        ("empty", "is empty"),
        ("truncated", "ends too early"),
        ("truncated safetensors", "damaged or incomplete"),
        ("zip", "could not be read"),
        ("text", "is not a file of weights"),
        ("pickle", "test_read.Anything.*can run any code.*init.trust_pickle=true"),
        ("decoder", "decoder only"),
        ("other architecture", r"\(conv1.weight, layer1.0.conv1.weight\) are of another architecture"),
        ("no tensors", "holds no tensors by name, but epoch"),
        ("folder", r"holds no weights \(it holds a.mp4\)"),
        ("nothing", "does not exist"),
    ],
)
def test_a_wrong_file_gets_a_hint(tmp_path, what, text) -> None:
    with pytest.raises(UserError, match=f"init.weights: .*{text}"):
        read_weights(write_wrong_file(tmp_path, what))


def test_an_encoder_without_its_configuration(pretrained) -> None:
    run, _ = pretrained()
    export_run(run)
    (run / "encoder.json").unlink()
    with pytest.raises(UserError, match="encoder.json does not exist"):
        read_weights(run / "encoder.safetensors")


def videomae_file(student: Student) -> dict[str, torch.Tensor]:
    """The student's encoder as VideoMAE's pretraining writes it."""
    own = {n: p.detach() for n, p in student.encoder.named_parameters()}
    theirs = {"encoder." + n.replace("stack.", ""): t for n, t in own.items() if "embed" not in n}
    for name in [n for n in theirs if n.endswith("attn.qkv.bias")]:  # the bias of the keys is 0 in this student
        query, _, value = theirs.pop(name).chunk(3)
        block = name.removesuffix("qkv.bias")
        theirs |= {f"{block}q_bias": query.clone(), f"{block}v_bias": value.clone()}
    kernel = own["embed.linear.weight"].view(32, 2, 4, 4, 3).permute(0, 4, 1, 2, 3)
    return theirs | {
        "encoder.patch_embed.proj.weight": kernel,
        "encoder.patch_embed.proj.bias": own["embed.linear.bias"],
    }


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_wrappers_and_prefixes(tiny_config, tmp_path, wrapper, prefix) -> None:
    student = Student.of(tiny_config())
    theirs = {prefix + n: t for n, t in videomae_file(student).items()}
    args = argparse.Namespace(lr=1e-3)  # as VideoMAE and MAE save it: no trust is needed for that
    content = theirs if wrapper is None else {"epoch": 3, wrapper: theirs, "args": args, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "checkpoint.pth")
    weights = read_weights(tmp_path / "checkpoint.pth")
    words = ["model.num_heads=2", "data.num_frames=4", "data.frame_size_px=[16, 16]", "model.position_grid=null"]
    model = make_classifier(weights, *words)
    report = fill_encoder(model, weights)
    assert same_encoder(model, student) and weights.kind == "VideoMAE"
    assert "how many heads" in report and "positions: those of 16 x 224 px assumed" in report


def test_trusted_pickles_are_read(tmp_path, tiny_config) -> None:
    student = Student.of(tiny_config())
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": videomae_file(student), "args": Anything()}, file)
    assert read_weights(file, trust_pickle=True).kind == "VideoMAE"
    torch.save(nn.ModuleDict({"a": nn.Linear(2, 2)}), file)
    with pytest.raises(UserError, match="another architecture"):
        read_weights(file, trust_pickle=True)


def test_settings_are_those_of_the_run(pretrained, tiny_config) -> None:
    run, _ = pretrained(model__drop_path=0.3, data__mean=[0.5, 0.5, 0.5])
    settings, config = read_weights(run).settings(), tiny_config()
    assert settings["data"] == {
        "num_frames": 4, "frame_size_px": [16, 16], "mean": [0.5, 0.5, 0.5], "std": config.data.std
    }  # fmt: skip
    model = dataclasses.asdict(config.model)
    names = set(settings["model"]) - {"position_grid"}
    assert {n: settings["model"][n] for n in names} == {n: model[n] for n in names} and "drop_path" not in names
    assert settings["model"]["position_grid"] == [2, 4, 4] and json.dumps(settings)


@pytest.mark.parametrize("layout", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_transformers_gives_encoder_and_head(tmp_path, layout) -> None:
    """From the folder alone: sizes, heads, grid, pixels and classes are in its json files."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    sizes = {
        "image_size": 24,
        "patch_size": 8,
        "num_frames": 6,
        "tubelet_size": 3,
        "hidden_size": 48,
        "layer_norm_eps": 1e-6,
    }
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192}
    settings = transformers.VideoMAEConfig(**sizes, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    other = transformers.VideoMAEForVideoClassification(settings).eval()
    other.fc_norm.eps = 1e-6
    other.save_pretrained(tmp_path)
    if layout == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(other.state_dict(), tmp_path / layout)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    weights = read_weights(tmp_path)
    settings = weights.settings()
    assert settings["data"] == {"num_frames": 6, "frame_size_px": [24, 24], "mean": [0.5] * 3, "std": [0.25] * 3}
    assert settings["model"]["num_heads"] == 3 and settings["model"]["position_grid"] == [2, 3, 3]
    model = make_classifier(weights, num_classes=2)
    report = fill_encoder(model, weights, ["a", "b"])
    assert "30 of 30" in report and weights.source.name == layout
    clip = torch.randn(2, 3, 6, 24, 24)
    torch.testing.assert_close(model(clip), other(clip.transpose(1, 2)).logits, atol=1e-5, rtol=0)

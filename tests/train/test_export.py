"""Exported models, as the other library loads them, give the numbers of the run's model."""

import json

import pytest
import torch

from hpm_video.config import load_finetune_config, to_yaml
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.train.checkpoint import Checkpoint, save_checkpoint, save_classes
from hpm_video.train.export import export
from hpm_video.train.weight_transfer import fill_encoder
from hpm_video.train.weights import read_weights
from hpm_video.types import UserError

CLASSES = ["left", "right", "up"]


def write_run(run, config, model) -> None:
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(config))
    weights = dict(model.named_parameters())
    save_checkpoint(run, Checkpoint(weights, None, {}, {"step": 1, "machine": {}}), keep=1)


@pytest.fixture()
def tuned(tmp_path, tiny_config):
    """A fine-tuning run of 4 frames of 16 x 24 px, or of such a picture."""

    def make(image: bool = False, **model):
        frames = {"num_frames": 1 if image else 4, "frame_size_px": [16, 24], "mean": [0.5] * 3}
        sizes = {"patch_px": 4, "tubelet": 1 if image else 2, "width": 32, "depth": 2, "num_heads": 2}
        config = load_finetune_config(
            overrides=["data.root=x", "train.output=y"], base={"data": frames, "model": sizes | model}
        )
        classifier = Classifier(config, 3).eval()
        write_run(tmp_path / "tuned", config, classifier)
        save_classes(tmp_path / "tuned", CLASSES)
        return tmp_path / "tuned", classifier

    return make


def test_a_classifier_for_transformers(tuned) -> None:
    transformers = pytest.importorskip("transformers", reason="exports to transformers")
    run, classifier = tuned()
    report = export(run, "hf")
    assert report.startswith(f"{run / 'hf'}: loaded back by hf") and float(report.split()[-1]) <= 1e-4
    other = transformers.AutoModelForVideoClassification.from_pretrained(run / "hf").eval()
    clip = torch.randn(2, 3, 4, 16, 24)
    torch.testing.assert_close(other(clip.transpose(1, 2)).logits, classifier(clip), atol=1e-4, rtol=0)
    assert other.config.id2label == dict(enumerate(CLASSES))
    processor = transformers.VideoMAEImageProcessor.from_pretrained(run / "hf")
    frames = torch.randint(0, 256, (4, 3, 16, 24), dtype=torch.uint8)
    expected = (frames / 255 - 0.5) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    read = processor(list(frames), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=0)
    weights = read_weights(run / "hf")  # and the way back
    config = load_finetune_config(overrides=["data.root=x", "train.output=y"], base=weights.settings())
    again = Classifier(config, 3).eval()
    assert "30 of 30" in fill_encoder(again, weights, CLASSES)
    torch.testing.assert_close(again(clip), classifier(clip), atol=1e-5, rtol=0)


def test_a_pretrained_model_for_transformers(tmp_path, tiny_config) -> None:
    transformers = pytest.importorskip("transformers", reason="exports to transformers")
    config = tiny_config()
    student = Student(config).eval()
    write_run(tmp_path / "run", config, student)
    export(tmp_path / "run", "hf", tmp_path / "out")
    other = transformers.VideoMAEModel.from_pretrained(tmp_path / "out").eval()
    clip = torch.randn(2, 3, 4, 16, 16)
    ours = student.encoder(clip)
    torch.testing.assert_close(other(clip.transpose(1, 2)).last_hidden_state, ours, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_classifier_for_timm(tuned, pooling) -> None:
    import timm

    run, classifier = tuned(image=True, pooling=pooling, cls_token=True, positions="sincos2d", position_grid=[1, 3, 3])
    assert float(export(run, "timm").split()[-1]) <= 1e-4
    other = timm.create_model(f"local-dir:{run / 'timm'}", pretrained=True).eval()
    picture = torch.randn(2, 3, 16, 24)
    torch.testing.assert_close(other(picture), classifier(picture[:, :, None]), atol=1e-5, rtol=0)
    assert json.loads((run / "timm" / "config.json").read_text())["pretrained_cfg"]["mean"] == [0.5] * 3


def test_an_encoder_for_timm(tmp_path, tiny_config) -> None:
    import timm

    config = tiny_config(image=True, model__positions="learned")
    student = Student(config).eval()
    write_run(tmp_path / "run", config, student)
    export(tmp_path / "run", "timm")
    other = timm.create_model(f"local-dir:{tmp_path / 'run' / 'timm'}", pretrained=True).eval()
    picture = torch.randn(2, 3, 16, 16)
    expected = student.encoder(picture[:, :, None])
    torch.testing.assert_close(other.forward_features(picture), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("target", "model", "text"),
    [
        ("timm", {}, "the clips have 4 frames; timm's ViT is for images"),
        ("hf", {"positions": "sincos3d"}, "model.positions=sincos3d"),
        ("hf", {"position_grid": [2, 4, 4]}, "positions made for another grid"),
        ("hf", {"cls_token": True}, "a class token"),
    ],
)
def test_what_the_other_library_cannot_be_is_refused(tuned, target, model, text) -> None:
    run, _ = tuned(**model)
    with pytest.raises(UserError, match=f"--to {target}: .*{text}"):
        export(run, target)
    assert not (run / target).exists() and not list(run.glob(".*draft"))


def test_an_export_that_gives_other_numbers_is_not_kept(tuned, monkeypatch) -> None:
    pytest.importorskip("transformers", reason="exports to transformers")
    run, _ = tuned()
    export(run, "hf")
    before = (run / "hf" / "model.safetensors").read_bytes()
    import hpm_video.train.export as module

    right = module.to_transformers
    monkeypatch.setattr(module, "to_transformers", lambda *a: {n: 1.01 * t for n, t in right(*a).items()})
    with pytest.raises(UserError, match="the outputs differ by .* not written"):
        export(run, "hf")
    assert (run / "hf" / "model.safetensors").read_bytes() == before and not list(run.glob(".*draft"))


def test_the_programs_own_files(tuned) -> None:
    run, classifier = tuned()
    assert export(run, "safetensors") == str(run / "classifier.safetensors")
    assert torch.equal(read_weights(run).head["head.weight"], classifier.head.weight)

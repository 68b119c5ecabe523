"""Exported models, as the other library loads them, give the numbers of the run's model."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from hpm_video.cli import main
from hpm_video.config import load_finetune_config, to_yaml
from hpm_video.data.readers.read import read_frames
from hpm_video.data.transforms import Normalise
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.runs.checkpoints import Checkpoint, save_checkpoint
from hpm_video.runs.results import add_scores, write_results
from hpm_video.runs.settings import save_classes
from hpm_video.types import UserError
from hpm_video.weights.export import export
from hpm_video.weights.exporters import EXPORTERS, Exporter
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_encoder, fill_student

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
        classifier = Classifier.of(config, 3).eval()
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
    again = Classifier.of(config, 3).eval()
    assert "30 of 30" in fill_encoder(again, weights, CLASSES)
    torch.testing.assert_close(again(clip), classifier(clip), atol=1e-5, rtol=0)


def test_a_pretrained_model_for_transformers(tmp_path, tiny_config) -> None:
    transformers = pytest.importorskip("transformers", reason="exports to transformers")
    config = tiny_config()
    student = Student.of(config).eval()
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
    about = json.loads((run / "timm" / "config.json").read_text())
    assert about["pretrained_cfg"]["mean"] == [0.5] * 3
    file = str(run / "timm" / "model.safetensors")  # as detection and segmentation toolboxes load it
    again = timm.create_model(about["architecture"], checkpoint_path=file, **about["model_args"]).eval()
    assert torch.equal(again(picture), other(picture))


def test_an_encoder_for_timm(tmp_path, tiny_config) -> None:
    import timm

    config = tiny_config(image=True, model__positions="learned")
    student = Student.of(config).eval()
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
    from hpm_video.weights.exporters import hf as module

    right = module.to_transformers
    monkeypatch.setattr(module, "to_transformers", lambda *a: {n: 1.01 * t for n, t in right(*a).items()})
    with pytest.raises(UserError, match="the outputs differ by .* not written"):
        export(run, "hf")
    assert (run / "hf" / "model.safetensors").read_bytes() == before and not list(run.glob(".*draft"))


def sines(num_tokens: int, width: int) -> torch.Tensor:
    """VideoMAE's table: position p, value k: p / 10000^(2 floor(k / 2) / width), sine where k is even, cosine where odd."""
    angles = [[p / 10000 ** (2 * (k // 2) / width) for k in range(width)] for p in range(num_tokens)]
    table = torch.tensor(angles, dtype=torch.float64)
    return torch.where(torch.arange(width) % 2 == 0, table.sin(), table.cos()).float()


def videomae_block(x: torch.Tensor, weights: dict, prefix: str, num_heads: int) -> torch.Tensor:
    """A block of VideoMAE's files: queries, keys and values in one map, biases for queries and values alone."""
    w = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    y = F.layer_norm(x, x.shape[-1:], w["norm1.weight"], w["norm1.bias"], 1e-6)
    bias = torch.cat([w["attn.q_bias"], torch.zeros_like(w["attn.q_bias"]), w["attn.v_bias"]])
    q, k, v = F.linear(y, w["attn.qkv.weight"], bias).unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    y = ((q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5).softmax(-1) @ v
    x = x + F.linear(y.transpose(1, 2).flatten(2), w["attn.proj.weight"], w["attn.proj.bias"])
    y = F.layer_norm(x, x.shape[-1:], w["norm2.weight"], w["norm2.bias"], 1e-6)
    return x + F.linear(
        F.gelu(F.linear(y, w["mlp.fc1.weight"], w["mlp.fc1.bias"])), w["mlp.fc2.weight"], w["mlp.fc2.bias"]
    )


def embed(clip: torch.Tensor, weights: dict, prefix: str) -> torch.Tensor:
    kernel = weights[f"{prefix}patch_embed.proj.weight"]
    tokens = F.conv3d(clip, kernel, weights[f"{prefix}patch_embed.proj.bias"], stride=kernel.shape[2:])
    tokens = tokens.flatten(2).transpose(1, 2)
    return tokens + sines(tokens.shape[1], tokens.shape[2])


def norm(x: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)


def test_a_classifier_in_videomaes_names_and_back(tuned) -> None:
    """Its own arithmetic, written out here, gives the run's logits; what is read again has the same weights."""
    run, classifier = tuned()
    assert float(export(run, "videomae").split()[-1]) <= 1e-5
    weights = torch.load(run / "videomae" / "videomae.pth", weights_only=True)["model"]
    clip = torch.randn(2, 3, 4, 16, 24)
    x = embed(clip, weights, "")
    for number in range(2):
        x = videomae_block(x, weights, f"blocks.{number}.", 2)
    x = F.linear(norm(x.mean(1), weights, "fc_norm"), weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(x, classifier(clip), atol=1e-5, rtol=0)
    found = read_weights(run / "videomae")  # the folder says the sizes, heads and classes
    again = Classifier.of(
        load_finetune_config(overrides=["data.root=x", "train.output=y"], base=found.settings()), 3
    ).eval()
    assert "30 of 30" in fill_encoder(again, found, CLASSES) and not found.notes
    assert again(clip).shape == (2, 3)
    torch.testing.assert_close(again(clip), classifier(clip), atol=1e-5, rtol=0)
    for name, parameter in again.named_parameters():
        expected = dict(classifier.named_parameters())[name].clone()
        if name.endswith("qkv.bias"):
            expected[32:64] = 0  # of the keys
        assert torch.equal(parameter, expected), name


def test_a_pretrained_model_in_videomaes_names(tmp_path, tiny_config) -> None:
    config = tiny_config()
    student = Student.of(config).eval()
    write_run(tmp_path / "run", config, student)
    assert float(export(tmp_path / "run", "videomae").split()[-1]) <= 1e-5
    weights = torch.load(tmp_path / "run" / "videomae" / "videomae.pth", weights_only=True)["model"]
    assert not [n for n in weights if "predictor" in n or "loss_head" in n] and "decoder.head.weight" in weights
    clip, order = torch.randn(2, 3, 4, 16, 16), torch.rand(2, 32).argsort(1)
    visible, hidden = order[:, :8].sort(1)[0], order[:, 8:].sort(1)[0]
    x = embed(clip, weights, "encoder.").gather(1, visible[:, :, None].expand(-1, -1, 32))
    for number in range(2):
        x = videomae_block(x, weights, f"encoder.blocks.{number}.", 2)
    x = F.linear(norm(x, weights, "encoder.norm"), weights["encoder_to_decoder.weight"])
    places = sines(32, 16)
    x = torch.cat([x + places[visible], weights["mask_token"] + places[hidden]], 1)
    x = norm(videomae_block(x, weights, "decoder.blocks.0.", 2)[:, -24:], weights, "decoder.norm")
    expected = F.linear(x, weights["decoder.head.weight"], weights["decoder.head.bias"])
    torch.testing.assert_close(student(clip, visible, hidden).pixels, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("key", [{"objective__target": "teacher_features"}, {"model__decoder_attention": "cross"}])
def test_of_a_decoder_that_videomae_does_not_have_the_encoder_is_written(tmp_path, tiny_config, key) -> None:
    transformers = pytest.importorskip("transformers", reason="exports to transformers")
    config = tiny_config(**key)
    student = Student.of(config).eval()
    write_run(tmp_path / "run", config, student)
    for target in ("hf", "videomae"):
        assert float(export(tmp_path / "run", target).split()[-1]) <= 1e-5
    clip = torch.randn(2, 3, 4, 16, 16)
    model = transformers.VideoMAEModel.from_pretrained(tmp_path / "run" / "hf").eval()
    expected = student.encoder(clip)
    torch.testing.assert_close(model(clip.transpose(1, 2)).last_hidden_state, expected, atol=1e-5, rtol=0)
    assert "VideoMAEModel.from_pretrained" in (tmp_path / "run" / "hf" / "README.md").read_text()
    weights = torch.load(tmp_path / "run" / "videomae" / "videomae.pth", weights_only=True)["model"]
    assert weights and all(name.startswith("encoder.") for name in weights)
    for folder in ("hf", "videomae"):
        found = read_weights(tmp_path / "run" / folder)
        assert not found.decoder
        again = Student.of(config).eval()
        fill_student(again, found, "pixels")
        torch.testing.assert_close(again.encoder(clip), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", ["encoder", "classifier"])
def test_onnx_gives_the_same_numbers_for_any_batch(tuned, tmp_path, tiny_config, stage) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="exports to onnx")
    pytest.importorskip("onnxscript", reason="exports to onnx")
    if stage == "encoder":
        config = tiny_config()
        run, model = tmp_path / "run", Student.of(config).eval()
        write_run(run, config, model)
        network, width = model.encoder, 16
    else:
        run, network = tuned(cls_token=True, pooling="cls")
        width = 24
    assert float(export(run, "onnx").split()[-1]) <= 1e-5
    session = onnxruntime.InferenceSession(str(run / "onnx" / "model.onnx"))
    for num_clips in (1, 5):
        clip = torch.randn(num_clips, 3, 4, 16, width)
        found = session.run(None, {"clip": clip.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), network(clip), atol=1e-5, rtol=0)
    about = json.loads((run / "onnx" / "config.json").read_text())
    assert about["num_frames"] == 4 and ("id2label" in about) == (stage == "classifier")


def test_the_card_says_what_it_is_and_how_it_was_trained(tuned) -> None:
    run, _ = tuned()
    export(run, "videomae")
    card = (run / "videomae" / "README.md").read_text()
    assert "A classifier of 3 classes: a plain ViT (32 wide, 2 blocks), tokens of 2 x 4 x 4 pixels." in card
    assert "Input: 4 frames of 16 x 24 px" in card and "The run has not ended: there are no figures." in card
    config = load_finetune_config(run / "config.yaml")
    figures = {"steps": 7, "clips": 56, "clips_per_s": 1.0}
    data = {"name": "ssv2", "num_rows": 9, "fingerprint": "abc"}
    write_results(run, "finetune", config, seconds=72.0, flops=1.5e9, world_size=2, figures=figures, data=data)
    add_scores(run, "test", {"top1": 0.625, "top1_interval": [0.5, 0.75], "num_clips": 2})
    export(run, "videomae")
    card = (run / "videomae" / "README.md").read_text()
    assert "| test, top1 | 0.6250 (95 %: 0.5000 to 0.7500) |" in card and "| steps | 7 |" in card
    assert "| data | ssv2, 9 samples, fingerprint abc |" in card and "| device hours | 0.04 |" in card
    assert card.startswith("---\nlibrary_name: videomae\nlicense: unknown\n") and "clips_per_s" not in card
    assert "\n## Licence\nNot stated" in card


def decode(file, config) -> torch.Tensor:
    """Return the first 4 frames as a normalised clip [1, 3, 4, H, W]."""
    frames = torch.from_numpy(read_frames(file, lambda num_frames: np.arange(4)))
    return Normalise(config.data)(frames.permute(3, 0, 1, 2)[None])


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"sampling": "auto"},
            "Frames: as the protocol of the data set says. segments, the usual one: one from each of 4",
        ),
        ({"sampling": "segments"}, "Frames: one from each of 4 equal parts of the video"),
        ({"sampling": "dense", "stride": 4}, "Frames: one in 4 frames, 16 frames in all;"),
        (
            {"sampling": "dense", "stride": 1, "fps": 8.0},
            "Frames: consecutive frames of the video at 8 frames per second, 4",
        ),
    ],
)
def test_the_card_says_which_frames_to_feed(tuned, keys, text) -> None:
    run, _ = tuned()
    config = load_finetune_config(run / "config.yaml", [f"data.{name}={value}" for name, value in keys.items()])
    (run / "config.yaml").write_text(to_yaml(config))
    export(run, "videomae")
    assert text in (run / "videomae" / "README.md").read_text()


def test_the_folder_answers_in_transformers_pipeline(tuned, tmp_path) -> None:
    """With the video processor that transformers makes from the folder."""
    transformers = pytest.importorskip("transformers", reason="exports to transformers")
    run, classifier = tuned()
    export(run, "hf")
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 24, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, 10)
    ask = transformers.pipeline("video-classification", model=str(run / "hf"), num_frames=4)
    answers = {answer["label"]: answer["score"] for answer in ask(str(tmp_path / "a.mp4"), top_k=3)}
    with torch.no_grad():
        expected = classifier(decode(tmp_path / "a.mp4", load_finetune_config(run / "config.yaml"))).softmax(1)[0]
    assert [answers[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.slow
def test_the_folder_gives_our_features_in_mtebs_wrapper(tmp_path, tiny_config) -> None:
    """pip install mteb; its collator reads with torchcodec, which needs FFmpeg's libraries."""
    mteb = pytest.importorskip("mteb.models.model_implementations.videomae_models", reason="pip install mteb")
    decoders = pytest.importorskip("torchcodec.decoders", reason="FFmpeg's libraries", exc_type=Exception)
    config = tiny_config()
    student = Student.of(config).eval()
    write_run(tmp_path / "run", config, student)
    export(tmp_path / "run", "hf")
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, 10)
    rows = [{"video": decoders.VideoDecoder(str(tmp_path / "a.mp4"))} for _ in range(3)]
    wrapper, asked = (
        mteb.VideoMAEWrapper(str(tmp_path / "run" / "hf"), None),
        {"task_metadata": None, "hf_split": "test"},
    )
    found = wrapper.encode(DataLoader(rows, batch_size=2), hf_subset="default", show_progress_bar=False, **asked)
    with torch.no_grad():
        expected = student.encoder(decode(tmp_path / "a.mp4", config)).mean(1)
    torch.testing.assert_close(torch.from_numpy(found), expected.expand(3, -1), atol=1e-3, rtol=0)


def test_the_programs_own_files(tuned) -> None:
    run, classifier = tuned()
    assert export(run, "safetensors") == str(run / "classifier.safetensors")
    assert torch.equal(read_weights(run).head["head.weight"], classifier.head.weight)


def test_a_new_exporter_is_one_file_and_one_row(tuned, tmp_path, monkeypatch, capsys) -> None:
    """--to, its help, the model card and the errors follow from the row."""
    (tmp_path / "plain_torch.py").write_text(
        "import torch\n\n\ndef write(folder, config, model, classes):\n"
        "    torch.save(model.state_dict(), folder / 'weights.pth')\n    (folder / 'config.json').write_text('{}')\n\n"
        "    def check(folder):\n        found = torch.load(folder / 'weights.pth')\n"
        "        return next(iter(found.values())), next(iter(model.state_dict().values()))\n\n    return check\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    row = Exporter(
        help="a plain state dict",
        implementation="plain_torch:write",
        library="torch",
        loaded_by="torch",
        use=('weights = torch.load("FOLDER/weights.pth")',),
    )
    monkeypatch.setattr(EXPORTERS, "rows", dict(EXPORTERS))
    EXPORTERS.add("torch", row)
    run, _ = tuned()
    assert main(["export", str(run), "--to", "torch"]) == 0
    assert "loaded back by torch" in capsys.readouterr().out
    card = (run / "torch" / "README.md").read_text()
    assert "library_name: torch" in card and 'weights = torch.load("FOLDER/weights.pth")' in card
    for words in (["--help"], [str(run), "--to", "nothing"]):
        with pytest.raises(SystemExit):
            main(["export", *words])
    told = capsys.readouterr()
    assert "torch: a plain state dict" in " ".join(told.out.split()) and "torch" in told.err
    with pytest.raises(UserError, match="--to: nothing; expected safetensors, .*torch"):
        export(run, "nothing")

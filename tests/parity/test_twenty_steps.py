"""Twenty steps from the same weights, on the same clips: of transformers' VideoMAE and our pretraining, with the same masks, and
of timm's ViT and our fine-tuning. Losses, gradients and the weights at the end."""

import json
import math
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hpm_video.config import load_finetune_config
from hpm_video.method.finetune_step import FinetuneStep
from hpm_video.models.classifier import Classifier
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.optim import lr_at
from hpm_video.types import Batch, BatchSlice
from hpm_video.weights.convert_in import FileSettings, convert, student_weights
from hpm_video.weights.read import read_weights
from hpm_video.weights.transfer import fill_encoder

ROOT = Path(__file__).parents[2]
HOME = ROOT / "benchmarks"
KEYS = ["model.width=32", "model.depth=2", "model.num_heads=2", "model.decoder_width=16", "model.decoder_heads=2"]
KEYS += ["mask.ratio=0.75", "model.patch_px=8", "preset=videomae", "optim.weight_decay=0.05", "engine.precision=fp32"]
SAID = FileSettings(num_heads=2, num_frames=4, frame_size_px=(32, 32), decoder_heads=2)


def test_twenty_steps(monkeypatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(HOME))
    sys.modules.pop("peers", None)
    peers = runpy.run_path(str(HOME / "peers.py"))
    for name in ("HuggingFaceStep", "OurStep"):
        monkeypatch.setitem(peers[name].__call__.__globals__, "LR", 2e-3)
    config = peers["make_config"]("ti", 4, 32, 3, KEYS)
    theirs, ours = (peers[name](config, torch.device("cpu")) for name in ("HuggingFaceStep", "OurStep"))
    ours.engine.module.load_state_dict(student_weights(convert(theirs.engine.module.state_dict(), SAID)), strict=True)
    rows = []
    for _ in range(20):
        losses = float(ours()), float(theirs())
        rows.append((losses, (ours.engine.norm, theirs.engine.norm)))
    for losses, norms in rows:
        assert losses[0] == pytest.approx(losses[1], abs=2e-4) and norms[0] == pytest.approx(norms[1], rel=2e-3)
    assert rows[-1][0][0] < 0.98 * rows[0][0][0]  # they did learn
    expected = student_weights(convert(theirs.engine.module.state_dict(), SAID))
    for name, weight in ours.engine.module.state_dict().items():
        if not name.endswith("qkv.bias"):  # theirs has no bias of the keys
            torch.testing.assert_close(weight, expected[name], atol=2e-3, rtol=1e-2, msg=name)


STEPS, BATCH, CLASSES = 20, 12, 5
WITHOUT_CHANCE = [f"augment.{key}=0" for key in ("mixup_alpha", "cutmix_alpha", "erase_probability")]


def in_our_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's parameters, or their gradients, as `Classifier` has them."""
    found = {}
    for name, tensor in theirs.items():
        if name == "patch_embed.proj.weight":
            found["encoder.embed.linear.weight"] = tensor.permute(0, 2, 3, 1).flatten(1)
        elif name.startswith(("fc_norm.", "head.")):
            found[name.removeprefix("fc_")] = tensor
        elif name in ("cls_token", "pos_embed"):
            ours = {"cls_token": "encoder.cls_token", "pos_embed": "encoder.positions.table"}[name]
            found[ours] = tensor.flatten(0, 1)
        else:
            found[f"encoder.{name.replace('patch_embed.proj', 'embed.linear')}".replace(
                "encoder.blocks", "encoder.stack.blocks").replace("encoder.norm", "encoder.stack.norm")] = tensor  # fmt: skip
    return found


def the_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """All but the biases of the keys: their gradient is zero but for rounding, which AdamW makes as large as any other."""
    theirs = in_our_names(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        mine, other = tensor.flatten(), theirs[name].flatten()
        if name.endswith("qkv.bias"):
            mine, other = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (mine, other))
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=1e-3, msg=name)


def published_groups(model: nn.Module, depth: int, layer_decay: float) -> list[dict]:
    """Embedding, tokens and positions are layer 0, blocks 1 to `depth`, all behind them depth + 1 (BEiT, MAE, VideoMAE; timm
    counts the last norm as a layer of its own). No decay of vectors, tokens and positions."""
    groups = []
    for name, parameter in model.named_parameters():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1
        if name.startswith(("patch_embed.", "pos_embed", "cls_token")):
            layer = 0
        decay = 0.0 if parameter.ndim == 1 or name in ("pos_embed", "cls_token") else 0.05
        groups.append({"params": [parameter], "weight_decay": decay, "scale": layer_decay ** (depth + 1 - layer)})
    return groups


@pytest.mark.parametrize("pooling", ["avg", "token"])
def test_twenty_steps_of_fine_tuning(tmp_path, pooling) -> None:
    """The layer decay, weight decay and smoothing of HPM's recipe for images; theirs by timm's loss and torch's AdamW."""
    from timm.loss import SoftTargetCrossEntropy
    from timm.models.vision_transformer import VisionTransformer

    theirs = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=CLASSES, global_pool=pooling,
        no_embed_class=True,
    )  # fmt: skip
    nn.init.normal_(theirs.head.weight, std=0.1)
    names = [str(number) for number in range(CLASSES)]
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    about = {"architecture": "vit_base_patch16_224", "global_pool": pooling}
    (tmp_path / "config.json").write_text(json.dumps(about))
    weights = replace(read_weights(tmp_path), classes=names)  # timm's files name none
    keys = ["data.root=x", "train.output=y", "model.num_heads=2", "model.drop_path=0", f"optim.batch_size={BATCH}"]
    keys += ["optim.base_lr=0.1", "engine.precision=fp32", f"model.pooling={'mean' if pooling == 'avg' else 'cls'}"]
    recipe = ROOT / "configs" / "finetune" / "in1k_vitb.yaml"
    config = load_finetune_config(recipe, [*keys, *WITHOUT_CHANCE], weights.settings())
    ours = Classifier.of(config, CLASSES)
    assert "is kept" in fill_encoder(ours, weights, names)
    step, engine = FinetuneStep(config, ours), PlainEngine(ours, config, torch.device("cpu"))
    optimizer = torch.optim.AdamW(published_groups(theirs, 3, 0.8), betas=(0.9, 0.999), eps=1e-8)
    peak, floor = 0.1 * BATCH / 256, 6.667e-7 * BATCH / 256
    losses = []
    for number in range(STEPS):
        picture, label = torch.randn(BATCH, 3, 16, 16), torch.randint(CLASSES, (BATCH,))
        picture[range(BATCH), 0, :8] += label[:, None, None]  # something to learn
        rate = (
            peak if number == 0 else floor + (peak - floor) * (1 + math.cos(math.pi * (number - 1) / (STEPS - 1))) / 2
        )
        loss = SoftTargetCrossEntropy()(theirs(picture), 0.9 * F.one_hot(label, CLASSES) + 0.1 / CLASSES)
        loss.backward()
        batch = Batch(
            torch.zeros(BATCH, 3, 1, 16, 16, dtype=torch.uint8), label, torch.arange(BATCH)
        )  # its labels alone count
        result, _ = step(engine, picture[:, :, None], BatchSlice(0, BATCH, BATCH), number, STEPS, batch)
        assert float(result.loss.detach()) == pytest.approx(float(loss.detach()), abs=2e-5), number
        engine.backward(result.loss)
        gradients = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
        the_same(gradients, {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, 2e-5)
        assert lr_at(number, STEPS, config.optim) == pytest.approx(rate)
        engine.step(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])  # they did learn
    the_same(dict(ours.named_parameters()), dict(theirs.named_parameters()), 1e-4)
    with torch.no_grad():
        picture = torch.randn(BATCH, 3, 16, 16)
        torch.testing.assert_close(ours.eval()(picture[:, :, None]), theirs.eval()(picture), atol=1e-3, rtol=1e-3)

"""Target clip: the features that HPM's code takes (Haochen-Wang409/HPM, models_clip.py, engine_pretrain.py), and old runs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hpm_video.config import load_config, to_yaml
from hpm_video.data.transforms import Normalise
from hpm_video.method.targets.image_models import ImageFeatures, image_model_name
from hpm_video.models.student import Student, target_width
from hpm_video.runs.checkpoints import Checkpoint, save_checkpoint
from hpm_video.runs.folder import check_same_run, keep_older_behaviour
from hpm_video.runs.kind import read_sections
from hpm_video.runs.settings import read_config
from hpm_video.types import UserError
from hpm_video.weights.load import load_student

CPU = torch.device("cpu")
WIDTH, HEADS, DEPTH, OUT = 768, 12, 12, 512  # ViT-B/16


def openai_names() -> dict[str, Tensor]:
    """The image half of CLIP by its own names, for pictures of 2 x 2 patches; two blocks do something."""
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (WIDTH,),
        "positional_embedding": (5, WIDTH),
        "proj": (WIDTH, OUT),
    }
    shapes |= {"conv1.weight": (WIDTH, 3, 16, 16)}
    shapes |= {f"{name}.{kind}": (WIDTH,) for name in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    for number in range(DEPTH):
        block = f"transformer.resblocks.{number}."
        shapes |= {f"{block}ln_{n}.{kind}": (WIDTH,) for n in "12" for kind in ("weight", "bias")}
        shapes |= {f"{block}attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{block}attn.in_proj_bias": (3 * WIDTH,)}
        for name, (outside, inside) in {
            "attn.out_proj": (WIDTH, WIDTH), "mlp.c_fc": (4 * WIDTH, WIDTH), "mlp.c_proj": (WIDTH, 4 * WIDTH)
        }.items():  # fmt: skip
            shapes |= {f"{block}{name}.weight": (outside, inside), f"{block}{name}.bias": (outside,)}
    found = {}
    for name, shape in shapes.items():
        last = ".out_proj." in name or ".c_proj." in name
        if last and not name.startswith(("transformer.resblocks.0.", "transformer.resblocks.7.")):
            found[name] = torch.zeros(shape)
        elif name.endswith(".weight") and len(shape) == 1:
            found[name] = 1 + 0.1 * torch.randn(shape)
        else:
            found[name] = torch.randn(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
    return found


def clip_features(w: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Every patch token after the last norm and the projection."""
    x = F.conv2d(pixels, w["conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["positional_embedding"]
    x = F.layer_norm(x, (WIDTH,), w["ln_pre.weight"], w["ln_pre.bias"])
    for number in (0, 7):
        block = {n.split(".", 3)[3]: t for n, t in w.items() if n.startswith(f"transformer.resblocks.{number}.")}
        y = F.layer_norm(x, (WIDTH,), block["ln_1.weight"], block["ln_1.bias"])
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.load_state_dict({n[5:]: t for n, t in block.items() if n.startswith("attn.")})
        x = x + attention(y, y, y, need_weights=False)[0]
        y = F.layer_norm(x, (WIDTH,), block["ln_2.weight"], block["ln_2.bias"])
        y = F.linear(y, block["mlp.c_fc.weight"], block["mlp.c_fc.bias"])
        x = x + F.linear(y * torch.sigmoid(1.702 * y), block["mlp.c_proj.weight"], block["mlp.c_proj.bias"])
    return (F.layer_norm(x, (WIDTH,), w["ln_post.weight"], w["ln_post.bias"]) @ w["proj"])[:, 1:]


@torch.no_grad()
def test_features_are_those_of_hpms_code(tiny_config, tmp_path) -> None:
    """QuickGELU, projected to 512, from pixels with ImageNet's mean and std, whatever those of the clips are."""
    w = openai_names()
    save_file({f"visual.{n}": t.contiguous() for n, t in w.items()}, tmp_path / "clip.safetensors")
    config = tiny_config(
        image=True, objective__target="clip", objective__target_weights=str(tmp_path / "clip.safetensors"),
        data__frame_size_px=[32, 32], model__patch_px=16, data__mean=[0.5, 0.5, 0.5], mask__ratio=0.5,
    )  # fmt: skip
    assert target_width(config) == 512 and Student.of(config).pixel_head.out_features == 512
    clip = torch.randn(2, 3, 1, 32, 32)
    pixels = Normalise(config.data).undo(clip)[:, :, 0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = clip_features(w, (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert expected.std() > 0.1
    torch.testing.assert_close(ImageFeatures(config, CPU)(clip), expected, atol=1e-4, rtol=1e-4)


def write_run(folder: Path, tiny_config, is_old: bool) -> Student:
    """A run with the target clip; an old one has no word of which features, and a head of 768."""
    config = tiny_config(objective__target="clip", objective__clip_features="last" if is_old else "projected")
    text, student = to_yaml(config), Student.of(config)
    if is_old:
        text = "\n".join(line for line in text.splitlines() if "clip_features" not in line)
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    save_checkpoint(folder, Checkpoint(dict(student.named_parameters()), None, {}, {"step": 1, "machine": {}}), keep=1)
    return student


def test_runs_from_before_the_choice_load_as_they_were(tiny_config, tmp_path) -> None:
    old, new = (write_run(tmp_path / name, tiny_config, name == "old") for name in ("old", "new"))
    for run, student, features, width in (
        (tmp_path / "old", old, "last", 768),
        (tmp_path / "new", new, "projected", 512),
    ):
        config, loaded = load_student(run)
        assert config.objective.clip_features == features and loaded.pixel_head.out_features == width
        assert all(torch.equal(p, dict(student.named_parameters())[n]) for n, p in loaded.named_parameters())
    assert image_model_name(read_config(tmp_path / "old").objective) == "vit_base_patch16_clip_224.openai"
    assert image_model_name(read_config(tmp_path / "new").objective) == "vit_base_patch16_clip_quickgelu_224.openai"
    before, sections = read_config(tmp_path / "old"), read_sections(tmp_path / "old")
    check_same_run(tmp_path / "old", tiny_config(objective__target="clip", objective__clip_features="last"), before, 1)
    command = tiny_config(objective__target="clip")
    with pytest.raises(UserError, match="objective.clip_features: projected, but the run in .* was started with last"):
        check_same_run(tmp_path / "old", command, before, 1)
    keep_older_behaviour(command, before, sections)  # as every resumed run
    assert command.objective.clip_features == "last"
    check_same_run(tmp_path / "old", command, before, 1)


def test_an_old_run_of_another_target_resumes_without_a_word(tiny_config, tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(
        "\n".join(line for line in to_yaml(tiny_config()).splitlines() if "clip_features" not in line)
    )
    (tmp_path / "checkpoints").mkdir()
    check_same_run(tmp_path, tiny_config(), read_config(tmp_path), 1)
    assert load_config(tmp_path / "config.yaml").objective.clip_features == "projected"

"""The numbers that follow from a configuration, and that no other room computes them."""

import ast
from pathlib import Path

import pytest

from hpm_video.config import load_config, load_finetune_config
from hpm_video.config.geometry import Geometry
from hpm_video.errors import UserError

ROOT = Path(__file__).parents[2]
REQUIRED = ["data.root=x", "train.output=y"]
SHARED = {"DecodePlan", "Geometry", "Grid", "cut_grid", "has_images", "image_data"}  # of config/geometry.py
TOKEN_SIZES = {"tubelet", "tubelet_size", "patch", "patch_px", "patch_size"}
MASK_SHARES = {"mask.ratio", "mask.decoded_share", "mask.round_down"}


def names_in(node: ast.AST) -> set[str]:
    """Return what an expression names: variables, attributes, and keys of dictionaries."""
    found = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    found |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    keys = [part.slice for part in ast.walk(node) if isinstance(part, ast.Subscript)]
    return found | {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}


def find_faults(source: str) -> list[str]:
    """Return the lines that compute a grid, the values of a token, or mask counts."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "hpm_video.config.geometry":
            faults += [f"{node.lineno}: imports {name.name}" for name in node.names if name.name not in SHARED]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "divmod":
            faults += [f"{node.lineno}: a grid"] if names_in(node.args[1]) & TOKEN_SIZES else []
        if not isinstance(node, ast.BinOp):
            continue
        named = names_in(node)
        if isinstance(node.op, ast.Div | ast.FloorDiv | ast.Mod) and names_in(node.right) & TOKEN_SIZES:
            faults.append(f"{node.lineno}: a grid")
        if isinstance(node.op, ast.Mult) and len({n.split("_")[0] for n in named & TOKEN_SIZES}) == 2:
            faults.append(f"{node.lineno}: the values of a token")
        if isinstance(node.op, ast.Mult) and {"num_frames", "frame_size_px"} <= named:
            faults.append(f"{node.lineno}: the values of a clip")
        if MASK_SHARES & {
            ast.unparse(side)[-len(share) :]
            for side in ast.walk(node)
            for share in MASK_SHARES
            if isinstance(side, ast.Attribute)
        }:
            faults.append(f"{node.lineno}: mask counts")
    return faults


def test_no_other_room_computes_grid_units_or_mask_counts() -> None:
    files = [*ROOT.glob("hpm_video/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("scripts/**/*.py")]
    files = [file for file in files if "config" not in file.relative_to(ROOT).parts]
    faults = {str(file.relative_to(ROOT)): find_faults(file.read_text()) for file in files}
    assert len(files) > 100 and {name: lines for name, lines in faults.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "steps = config.data.num_frames // config.model.tubelet",
        "grid = [side // patch for side in config.data.frame_size_px]",
        "rest = data['num_frames'] % model['tubelet']",
        "steps, rest = divmod(num_frames, tubelet)",
        "values = model.tubelet * model.patch_px**2 * 3",
        "size = config.data.num_frames * math.prod(config.data.frame_size_px) * 3",
        "masked = int(config.mask.ratio * num_units)",
        "from hpm_video.config.geometry import image_config",
    ],
)
def test_the_rule_finds_what_it_forbids(source) -> None:
    assert len(find_faults(source)) >= 1


@pytest.mark.parametrize(
    ("overrides", "grid", "unit", "counts"),
    [
        ([], (8, 14, 14), (8, 1, 1), (196, 176)),  # VideoMAE: 0.9 of 196 tubes
        (["mask.unit=token"], (8, 14, 14), (1, 1, 1), (1568, 1411)),
        (["mask.unit=block", "mask.block=[4,7,2]"], (8, 14, 14), (4, 7, 2), (28, 25)),
        (["mask.ratio=0.75"], (8, 14, 14), (8, 1, 1), (196, 147)),  # exactly three quarters, not 146
        (["mask.ratio=0.57", "data.frame_size_px=[160,160]"], (8, 10, 10), (8, 1, 1), (100, 57)),  # 56.99999999999999
        (["data.num_frames=1", "model.tubelet=1", "mask.ratio=0.75"], (1, 14, 14), (1, 1, 1), (196, 147)),
        (["data.frame_size_px=[112,224]"], (8, 7, 14), (8, 1, 1), (98, 88)),
    ],
)
def test_grid_units_and_masks(overrides, grid, unit, counts) -> None:
    geometry = Geometry.of(load_config(overrides=REQUIRED + overrides))
    assert (geometry.grid, geometry.block, (geometry.num_units, geometry.num_masked)) == (grid, unit, counts)
    assert geometry.num_units * geometry.unit_size == geometry.num_tokens
    assert geometry.num_visible == geometry.num_tokens - geometry.num_masked * geometry.unit_size


def test_decoded_tokens_are_a_share_of_each_unit_or_of_the_units() -> None:
    half = Geometry.of(load_config(overrides=[*REQUIRED, "mask.decoded_share=0.5"]))
    assert (half.decode_plan, half.num_decoded) == ((176, 4), 704)
    single = Geometry.of(load_config(overrides=[*REQUIRED, "mask.decoded_share=0.5", "mask.unit=token"]))
    assert single.decode_plan == (706, 1)


def test_images_have_one_time_step() -> None:
    config = load_config(overrides=[*REQUIRED, "images.root=z", "mask.unit=block", "mask.block=[2,7,2]"])
    image = Geometry.of_images(config)
    assert (image.clip_shape, image.grid, image.block) == ((3, 2, 224, 224), (1, 14, 14), (1, 7, 2))


def test_fine_tuning_masks_nothing() -> None:
    geometry = Geometry.of(load_finetune_config(overrides=REQUIRED))
    assert geometry.num_visible == geometry.num_tokens == 1568 and geometry.num_decoded == 0


def test_plain_numbers_of_any_channels() -> None:
    geometry = Geometry(clip_shape=(1, 8, 32, 48), tubelet=4, patch_px=8)
    assert (geometry.grid, geometry.values_per_token, geometry.values_per_clip) == ((2, 4, 6), 256, 8 * 32 * 48)
    with pytest.raises(UserError, match=r"data.num_frames: 9 is not a multiple of model.tubelet 4.*8 or 12"):
        Geometry(clip_shape=(1, 9, 32, 48), tubelet=4, patch_px=8)

"""Bad input is named: the key, the value, what was expected. Good input comes back as it went in."""

import dataclasses
from pathlib import Path

import pytest

from hpm_video.config import PretrainConfig, load_config, load_finetune_config, to_yaml
from hpm_video.config.load import describe_keys
from hpm_video.config.presets import PRESET_USES, PRESETS, QUARTER_CROSS
from hpm_video.types import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "pretrain"
REQUIRED = ["data.root=somewhere", "train.output=run"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # unknown keys, with what was probably meant
        (["mask.ratoi=0.5"], ["'mask.ratoi'", "the command line", "'mask.ratio'"]),
        (["batch_size=64"], ["'batch_size'", "'optim.batch_size'"]),
        (["qqqq=1"], ["'qqqq'", "--help"]),
        (["model=b"], ["'model'"]),
        # wrong types
        (["optim.batch_size=many"], ["optim.batch_size", "'many'", "int"]),
        (["optim.batch_size=1.5"], ["optim.batch_size", "1.5", "int"]),
        (["optim.batch_size=null"], ["optim.batch_size", "None", "int"]),
        (["data.flip=maybe"], ["data.flip", "'maybe'", "bool"]),
        (["data.frame_size_px=[a,b]"], ["data.frame_size_px", "'a'", "list of int"]),
        (["data.frame_size_px=224"], ["data.frame_size_px", "224", "list of int"]),
        (["data.frame_size_px={h: 224}"], ["data.frame_size_px", "'h'", "list of int"]),
        (["model.size.width=3"], ["model.size", "'width'", "str"]),
        (
            ["engine.micro_batch_size=most"],
            ["engine.micro_batch_size", "'most'", "auto or a whole number of at least 1"],
        ),
        (["engine.micro_batch_size=0"], ["engine.micro_batch_size", "0", "at least 1"]),
        (["engine.micro_batch_size=1.5"], ["engine.micro_batch_size", "1.5", "int, str or null"]),
        (["train.steps=soon"], ["train.steps", "'soon'", "int or null"]),
        # values out of their choices, bounds and lengths
        (["model.size=xl"], ["model.size", "'xl'", "ti, s, b, l, h"]),
        (["mask.mode=hard"], ["mask.mode", "'hard'", "hpm, predictor_only, random, inverted"]),
        (["mask.ratio=1.5"], ["mask.ratio", "1.5", "0 to 1"]),
        (["optim.batch_size=0"], ["optim.batch_size", "0", "at least 1"]),
        (["mask.ratio=.nan"], ["mask.ratio", "nan", "finite"]),
        (["optim.base_lr=.inf"], ["optim.base_lr", "inf", "finite"]),
        (["optim.betas=[0.9,.nan]"], ["optim.betas", "nan", "finite"]),
        (["data.frame_size_px=[224]"], ["data.frame_size_px", "[224]", "2 values"]),
        (["data.crop_scales=[]"], ["data.crop_scales", "[]", "at least one"]),
        # keys against each other
        (["data.frame_size_px=[224,100]"], ["data.frame_size_px", "100", "model.patch_px 16", "96 or 112"]),
        (["data.frame_size_px=[8,224]"], ["data.frame_size_px", "8", "work: 16"]),
        (["data.frame_size_px=[-16,224]"], ["data.frame_size_px", "-16", "work: 16"]),
        (["data.num_frames=5"], ["data.num_frames", "5", "model.tubelet 2", "4 or 6"]),
        (["mask.ratio=0"], ["mask.ratio", "0.0 of 196", "0 masked", "0.0051 to 0.995"]),
        (["mask.ratio=1"], ["mask.ratio", "1.0 of 196", "0 visible"]),
        (["model.positions=sincos2d"], ["model.positions", "sincos2d", "8 steps in time", "sincos3d"]),
        (["mask.unit=block", "mask.block=[3,1,1]"], ["mask.block", "(3, 1, 1)", "8 tokens in time"]),
        (["mask.unit=block", "mask.block=[1,1,5]"], ["mask.block", "(1, 1, 5)", "14 tokens in width"]),
        (["mask.unit=block", "mask.block=[1,0,1]"], ["mask.block", "(1, 0, 1)", "height"]),
        (["mask.hard_share_end=0.8"], ["mask.hard_share_start", "1.0", "0.8"]),
        (
            ["preset=hpm_teacher", "objective.ranking_weight=0"],
            ["objective.ranking_weight", "0", "mask.mode hpm", "above 0"],
        ),
        (["preset=hpm_teacher", "mask.ratio=0.006"], ["mask.ratio", "0.006", "at least 2"]),
        (["data.std=[1,0,1]"], ["data.std", "0.0", "above 0"]),
        # text that is no override
        (["mask.ratio"], ["'mask.ratio'", "KEY=VALUE"]),
        (["mask.block=[1,2"], ["mask.block=[1,2", "not valid YAML"]),
        (["data.root=${nowhere}"], ["data.root", "nowhere"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_bad_override_is_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(overrides=REQUIRED + overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("given", "missing"), [("data.root=x", "train.output"), ("train.output=x", "data.root")])
def test_missing_required_key_is_named(given: str, missing: str) -> None:
    with pytest.raises(UserError, match=f"{missing} is not set: expected .*{missing}=\\.\\.\\."):
        load_config(overrides=[given])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mask: {ratio: [", ["not valid YAML"]),
        ("mask:\n  ratio: 0.5\n  ratio: 0.6\n", ["not valid YAML", "ratio"]),
        ("- mask\n", ["is a list", "KEY: VALUE"]),
        ("mask: 5\n", ["'mask'"]),
        ("mask:\n  ratoi: 0.5\n", ["'mask.ratoi'", "'mask.ratio'"]),
        ("mask:\n  ratio: {a: 1}\n", ["mask.ratio", "float"]),
    ],
)
def test_bad_file_is_named(text: str, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(file, REQUIRED)
    for word in [*words, str(file)]:
        assert word in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.yaml does not exist"):
        load_config(tmp_path / "absent.yaml", REQUIRED)


def test_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data:\n  root: a\nteacher:\n# a section without keys sets nothing\nmask:\n  ratio: 0.5\n")
    config = load_config(file, ["train.output=b", "mask.ratio=0.75", "data.mean=[0,0,0]", "train.steps=3"])
    assert (config.data.root, config.train.output, config.mask.ratio) == ("a", "b", 0.75)
    assert (config.data.mean, config.train.steps, config.teacher.num_views) == ([0.0, 0.0, 0.0], 3, 1)
    assert load_config(file, ["train.output=b"]).mask.ratio == 0.5


def test_yaml_round_trip(tmp_path: Path) -> None:
    changed = ["mask.unit=block", "mask.block=[2,7,1]", "optim.clip_norm=0.02", "train.epochs=2", "data.flip=true"]
    config = load_config(overrides=[*REQUIRED, *changed])
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    for section in dataclasses.fields(PretrainConfig):
        assert all(f"  {f.name}:" in file.read_text() for f in dataclasses.fields(getattr(config, section.name)))


def test_configurations_do_not_share_lists() -> None:
    load_config(overrides=REQUIRED).optim.betas[0] = 0.0
    assert load_config(overrides=REQUIRED).optim.betas == [0.9, 0.95]


def test_describe_keys_lists_every_key_with_its_default() -> None:
    rows = {line.split()[0]: line for line in describe_keys().splitlines() if line.startswith("  ")}
    config = load_config(overrides=REQUIRED)
    expected = {
        f"{section.name}.{f.name}": getattr(getattr(config, section.name), f.name)
        for section in dataclasses.fields(PretrainConfig)
        for f in dataclasses.fields(getattr(config, section.name))
    }
    assert rows.keys() == expected.keys()
    for name, value in expected.items():
        words = {None: "null", True: "true", False: "false"}
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        text = text or (str(value) if isinstance(value, list) else words.get(value, str(value)))
        text = "(required)" if name in ("data.root", "train.output") else text
        assert rows[name].split(maxsplit=1)[1].startswith(f"{text} "), name
    assert "[hpm|predictor_only|random|inverted|split]" in rows["mask.mode"]


def test_images_may_have_sincos2d() -> None:
    load_config(overrides=[*REQUIRED, "data.num_frames=1", "model.tubelet=1", "model.positions=sincos2d"])


def test_every_shipped_configuration_loads() -> None:
    files = sorted(CONFIGS.glob("*.yaml"))
    assert len(files) >= 3
    for file in files:
        load_config(file, REQUIRED)


def test_the_defaults_are_the_preset_hpm() -> None:
    required = ["data.root=x", "train.output=y"]
    assert load_config(None, required) == load_config(None, [*required, "preset=hpm"])
    assert load_config(None, [*required, "preset=hpm_paper"]).model.predictor_depth is None  # as the pixel decoder


@pytest.mark.parametrize(("given", "value"), [("auto", "auto"), ("null", None), ("4", 4)])
def test_micro_batch_size_is_auto_a_number_or_null(given: str, value: object, tmp_path: Path) -> None:
    config = load_config(overrides=[*REQUIRED, f"engine.micro_batch_size={given}"])
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert config.engine.micro_batch_size == value == load_config(tmp_path / "run.yaml").engine.micro_batch_size


@pytest.mark.parametrize(("old", "new"), [("random", "random_half"), ("hpm_memory", "hpm")])
def test_the_old_name_of_a_preset_works_with_a_note(old, new, caplog) -> None:
    assert load_config(overrides=[*REQUIRED, f"preset={old}"]) == load_config(overrides=[*REQUIRED, f"preset={new}"])
    assert [record.getMessage() for record in caplog.records] == [f"preset={old} is now called preset={new}"]


def test_a_file_takes_presets_below_its_own_keys(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("mask: {ratio: 0.5, sharpness: -1}\npreset: [hpm_paper, tiny]\n")
    expected = load_config(
        overrides=[*REQUIRED, "preset=hpm_paper", "preset=tiny", "mask.ratio=0.5", "mask.sharpness=-1"]
    )
    assert load_config(file, REQUIRED) == expected and expected.teacher.view == "all"
    assert load_config(file, [*REQUIRED, "mask.ratio=0.8", "preset=tiny"]).mask.ratio == 0.75  # in their order
    assert load_config(file, REQUIRED, {"teacher": {"view": "partial"}, "model": {"tubelet": 1}}).model.tubelet == 1
    for wrong in ("none_such", "[hpm, none_such]", "{hpm: 1}", "null"):
        file.write_text(f"preset: {wrong}\n")
        with pytest.raises(UserError, match="^preset: .*; expected one of hpm, hpm_teacher, "):
            load_config(file, REQUIRED)
    with pytest.raises(UserError, match="unknown key 'preset'"):
        load_finetune_config(file, REQUIRED)


METHODS = [name for name in PRESETS if name not in PRESET_USES]


@pytest.mark.parametrize("preset", METHODS)
def test_a_preset_of_a_method_sets_all_that_the_default_method_sets(preset: str) -> None:
    """A preset means the same whatever the defaults are; random masks ask for no difficulty."""
    keys = PRESETS["hpm"].keys() if PRESETS[preset]["mask.mode"] == "hpm" else ("mask.mode", *QUARTER_CROSS)
    assert set(keys) <= PRESETS[preset].keys()


@pytest.mark.parametrize("size", ["small", "tiny"])
@pytest.mark.parametrize("method", ["hpm", "hpm_teacher", "hpm_paper", "random_half", "random_cross", "videomae"])
def test_a_preset_of_each_kind_can_be_combined_in_any_order(size: str, method: str) -> None:
    assert not PRESETS[size].keys() & PRESETS[method].keys()
    config = load_config(overrides=[*REQUIRED, f"preset={method}", f"preset={size}"])
    assert config == load_config(overrides=[*REQUIRED, f"preset={size}", f"preset={method}"])
    assert config.model.size == {"small": "s", "tiny": "ti"}[size]
    assert config.mask.decoded_share == float(PRESETS[method]["mask.decoded_share"])
    assert f"preset={size} ({PRESET_USES[size]})" in describe_keys()

"""Load a configuration: defaults, a YAML file, dotted overrides, presets."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from hpm_video.config.checks import check_clip, check_combinations
from hpm_video.config.data_sections import DataConfig
from hpm_video.config.presets import PRESET_USES, PRESETS, expand_presets
from hpm_video.config.run_sections import FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.config.schema import BASE, Layer, describe_fields, read_file, read_override, read_values
from hpm_video.errors import UserError

AnyConfig = TypeVar("AnyConfig", PretrainConfig, FinetuneConfig)


def load_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    check: bool = True,
) -> PretrainConfig:
    """Load a configuration of pretraining: defaults <- `base` <- YAML file <- dotted overrides.

    base: settings that the weights of init determine. The override preset=NAME stands for the keys of a preset; so does
    `preset: NAME` (or a list of names) in the file, whose other keys come after it. Unless `check` is off, keys are checked
    against each other. Raises UserError.
    """
    config = read_values(PretrainConfig, _layers(file, expand_presets(overrides), base, takes_presets=True))
    if check:
        check_combinations(config)
    return config


def load_finetune_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    check: bool = True,
) -> FinetuneConfig:
    """Load a configuration of fine-tuning, as `load_config` does. Raises UserError."""
    config = read_values(FinetuneConfig, _layers(file, overrides, base))
    if not check:
        return config
    check_clip(config)
    if config.model.pooling == "cls" and not config.model.cls_token:
        raise UserError(
            "model.pooling: cls, but model.cls_token is false; expected mean, or a model with a class token"
        )
    if (config.data.crop, config.data.flip) != (DataConfig.crop, DataConfig.flip):
        raise UserError(
            "data.crop, data.flip: keys of pretraining; fine-tuning takes augment.crop_area and augment.flip"
        )
    return config


def _layers(
    file: str | Path | None, overrides: Iterable[str], base: Mapping[str, Any] | None, takes_presets: bool = False
) -> Iterator[Layer]:
    """Yield the sources of values, from the one with the lowest priority to the one with the highest."""
    yield dict(base or {}), BASE
    if file is not None:
        tree = read_file(Path(file))
        names = tree.pop("preset", []) if takes_presets else []
        for key in expand_presets(f"preset={name}" for name in (names if isinstance(names, list) else [names])):
            yield read_override(key), f"{file}"
        yield tree, f"{file}"
    for override in overrides:
        yield read_override(override), "the command line"


def describe_keys(schema: type = PretrainConfig) -> str:
    """Return the text of --help: every key with default, type and help, and the presets of pretraining."""
    presets = [
        "presets (one of the first six and one of the last two can be combined; in a YAML file: `preset: NAME`):"
    ]
    for name, keys in PRESETS.items():
        use = f" ({PRESET_USES[name]})" if name in PRESET_USES else ""
        presets.append(f"preset={name}{use}: {' '.join(f'{k}={v}' for k, v in keys.items())}")
    return describe_fields(schema) + ("\n\n" + "\n".join(presets) if schema is PretrainConfig else "")


def to_yaml(config: RunConfig) -> str:
    """Return the whole configuration as YAML, every key written out; `load_config` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))

"""Load a configuration: defaults, a YAML file, dotted overrides."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from hpm_video.config.checks import check_clip, check_combinations
from hpm_video.config.data_sections import DataConfig
from hpm_video.config.presets import PRESET_USES, PRESETS, without_presets
from hpm_video.config.run_sections import FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.config.schema import describe_fields, read_values
from hpm_video.errors import UserError

AnyConfig = TypeVar("AnyConfig", PretrainConfig, FinetuneConfig)


def load_config(
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
    check: bool = True,
) -> PretrainConfig:
    """Load a configuration of pretraining: defaults <- `base` <- YAML file <- dotted overrides.

    base: settings that the weights of init determine. The override preset=NAME stands for those of PRESETS. Unless `check`
    is off, keys are checked against each other. Raises UserError.
    """
    config = read_values(PretrainConfig, None if file is None else Path(file), without_presets(overrides), base)
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
    config = read_values(FinetuneConfig, None if file is None else Path(file), overrides, base)
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


def describe_keys(schema: type = PretrainConfig) -> str:
    """Return the text of --help: every key with default, type and help, and the presets of pretraining."""
    presets = ["presets (one of the first six and one of the last two can be combined):"]
    for name, keys in PRESETS.items():
        use = f" ({PRESET_USES[name]})" if name in PRESET_USES else ""
        presets.append(f"preset={name}{use}: {' '.join(f'{k}={v}' for k, v in keys.items())}")
    return describe_fields(schema) + ("\n\n" + "\n".join(presets) if schema is PretrainConfig else "")


def to_yaml(config: RunConfig) -> str:
    """Return the whole configuration as YAML, every key written out; `load_config` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))

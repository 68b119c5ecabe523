"""Write DeepSpeed's own configuration from ours."""

from pathlib import Path
from typing import Any

from hpm_video.config.batch import Split
from hpm_video.config.run_sections import RunConfig
from hpm_video.errors import UserError
from hpm_video.reading import read_json

MOST_REDUCED = 100_000_000  # numbers, 0.37 GiB


def zero_stage(config: RunConfig) -> int:
    """Return engine.zero_stage, which is 1 for null."""
    return 1 if config.engine.zero_stage is None else config.engine.zero_stage


def bucket_size(num_parameters: int) -> int:
    """Return the size of the buffer in which DeepSpeed reduces gradients, in numbers; every rank allocates it.

    It holds all gradients, at most MOST_REDUCED. DeepSpeed's default (5e8) takes 1.9 GiB per rank, however small the model is.
    """
    return min(num_parameters, MOST_REDUCED)


def deepspeed_settings(config: RunConfig, split: Split, bf16: bool, num_parameters: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration; engine.deepspeed_json may add keys, never change one. Raises UserError."""
    ours: dict[str, Any] = {
        "train_batch_size": split.batch_size,
        "train_micro_batch_size_per_gpu": split.micro,
        "gradient_accumulation_steps": split.rounds,
        "managed_gradient_accumulation": False,  # each step() ends a batch, even if a micro batch was left out
        "zero_optimization": {"stage": zero_stage(config), "overlap_comm": False},
        "steps_per_print": 10**9,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
    }
    if config.optim.clip_norm is not None and zero_stage(config) > 0:
        ours["gradient_clipping"] = config.optim.clip_norm
    if config.engine.deepspeed_json is not None:
        file = Path(config.engine.deepspeed_json)
        try:
            theirs = read_json(file, dict, "settings of DeepSpeed, a JSON object")
        except UserError as error:
            raise UserError(f"engine.deepspeed_json: {error}") from error
        ours = _merge_settings(ours, theirs, file, "")
    buckets = {"reduce_bucket_size": bucket_size(num_parameters)}
    return ours | {"zero_optimization": buckets | ours["zero_optimization"]}


OWNED = {
    "optimizer": "optim.*",
    "scheduler": "optim.*",
    "gradient_clipping": "optim.clip_norm",
    "fp16": "engine.precision",
    "bf16": "engine.precision",
    "torch_autocast": "engine.precision",
    "train_batch_size": "optim.batch_size",
    "train_micro_batch_size_per_gpu": "engine.micro_batch_size",
    "gradient_accumulation_steps": "engine.micro_batch_size",
    "zero_optimization.stage": "engine.zero_stage",
}


def _merge_settings(ours: dict, theirs: dict, file: Path, prefix: str) -> dict:
    merged = dict(ours)
    for name, value in theirs.items():
        dotted = prefix + name
        if dotted in OWNED:
            raise UserError(f"engine.deepspeed_json: {file} sets {dotted}; it comes from {OWNED[dotted]}: set it there")
        if isinstance(value, dict) and isinstance(ours.get(name), dict):
            merged[name] = _merge_settings(ours[name], value, file, f"{dotted}.")
        elif name in ours and ours[name] != value:
            raise UserError(
                f"engine.deepspeed_json: {file} sets {dotted} to {value!r}; this program needs {ours[name]!r}"
            )
        else:
            merged[name] = value
    return merged

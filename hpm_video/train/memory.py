"""What a rank holds on its device while it trains, in bytes, before anybody has run it: an estimate.

Weights and what belongs to each of them: the rules of `bytes_per_parameter`. Activations: those of a dry run. Not counted:
the allocator's gaps, workspaces of kernels, the CUDA context (about 0.5 GiB), a compiled model, held-out clips.
"""

from collections.abc import Mapping

import timm
import torch

from hpm_video.config import PretrainConfig, token_grid
from hpm_video.method.targets import IMAGE_MODELS, PATCH_PX
from hpm_video.train.dry_run import DryRun
from hpm_video.train.engine import deepspeed_settings, split_batch


def bytes_per_parameter(zero_stage: int | None, num_ranks: int) -> dict[str, float]:
    """At the end of a backward pass, with fp32 weights; None is the plain engine. Measured with DeepSpeed 0.19 on 1, 2 and 4
    ranks, as it keeps copies that its documents do not name."""
    share = 1 / num_ranks
    weights, gradients, copied, reduced = {
        None: (4.0, 4.0, 0.0, 0.0),
        0: (4.0, 4.0, 0.0, 0.0),
        1: (4.0, 4.0, 4 * share, 4.0),
        2: (4.0, 4.0, 4 * share, 4 * share),
        3: (4 * share, 0.0, 4 * share, 4 * share),
    }[zero_stage]
    moments = 8 * share if zero_stage else 8.0
    found = {"weights": weights, "gradients": gradients, "AdamW's two moments": moments}
    return found | {"DeepSpeed's copy of the weights": copied, "DeepSpeed's reduced gradients": reduced}


def stage_of(config: PretrainConfig, num_ranks: int) -> int | None:
    """The ZeRO stage with so many ranks; None for the plain engine."""
    deepspeed = config.engine.kind == "deepspeed" or (config.engine.kind == "auto" and num_ranks > 1)
    return config.engine.zero_stage if deepspeed else None


def estimate_memory(config: PretrainConfig, run: DryRun, num_ranks: int) -> dict[str, int]:
    """Bytes of one rank by what they are for; what is 0 is left out. Raises UserError as the engine's settings do."""
    stage, count = stage_of(config, num_ranks), run.num_parameters
    found = {name: size * count["student"] for name, size in bytes_per_parameter(stage, num_ranks).items()}
    if stage:
        split = split_batch(config.optim.batch_size, config.engine.micro_batch_size, num_ranks)
        zero = deepspeed_settings(config, split, False, count["student"])["zero_optimization"]
        found["DeepSpeed's buffer to reduce gradients"] = 4 * int(zero["reduce_bucket_size"])
    if stage == 3:
        gathered = min(count["student"], 10**9)  # DeepSpeed's stage3_max_live_parameters
        found["weights gathered from the ranks, at most"] = 4 * gathered
    found["teacher (fp32)"] = 4 * count.get("teacher", 0)
    found["target network"] = 4 * count_target_parameters(config)
    found[f"activations of {run.num_clips} clips, at the peak"] = run.peak_bytes
    return {name: round(size) for name, size in found.items() if size}


def count_target_parameters(config: PretrainConfig) -> int:
    """Of the network beside the training that gives its features as targets; 0 where there is none."""
    if config.objective.target not in IMAGE_MODELS:
        return 0
    _, h, w = token_grid(config)
    with torch.device("meta"):
        network = timm.create_model(
            IMAGE_MODELS[config.objective.target], num_classes=0, img_size=(h * PATCH_PX, w * PATCH_PX)
        )
    return sum(p.numel() for p in network.parameters())


def checkpoint_bytes(counts: Mapping[str, int]) -> int:
    """Of one checkpoint: weights, moments and teacher, whole, in fp32."""
    return 12 * counts["student"] + 4 * counts.get("teacher", 0)

"""The machine under the student: a plain engine of one process, and DeepSpeed's. The only file that imports deepspeed.

Both take the global batch in rounds (gradient accumulation) of micro batches, keep weights in fp32 (bf16 is autocast),
leave out an update whose gradient is not finite, and give and take the optimizer's state whole and by name, so that a
checkpoint does not depend on the engine, the ZeRO stage or the number of processes.
"""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpm_video.config import RunConfig
from hpm_video.errors import UserError
from hpm_video.models.layers import compile_blocks
from hpm_video.reading import read_json
from hpm_video.train.optim import make_optimizer
from hpm_video.train.ranks import refuse_foreign_launchers, started_by_launcher
from hpm_video.types import Place

MOMENTS = ("exp_avg", "exp_avg_sq")
MOST_REDUCED = 100_000_000  # numbers, 0.37 GiB
log = logging.getLogger("hpm_video")


class Split(NamedTuple):
    """How the global batch is cut: micro batch of round r on rank k = rows [(r * world_size + k) * micro, + micro)."""

    batch_size: int
    micro: int
    rounds: int

    def place(self, round: int, rank: int, world_size: int) -> Place:
        start = (round * world_size + rank) * self.micro
        return Place(start, start + self.micro, self.batch_size)


def split_batch(batch_size: int, most: int | str | None, world_size: int) -> Split:
    """Return the largest micro batch of at most `most` clips that divides. None, and an `auto` that nobody has settled
    (`hpm_video.train.micro_batch`), mean the whole share of a rank. Raises UserError if the ranks do not divide batch_size."""
    if batch_size % world_size:
        raise UserError(f"optim.batch_size: {batch_size} is not a multiple of the {world_size} ranks")
    share = batch_size // world_size
    limit = most if isinstance(most, int) else share
    micro = max(m for m in range(1, min(share, limit) + 1) if share % m == 0)
    return Split(batch_size, micro, share // micro)


class PlainEngine:
    """One process, no wrapper; also what the engines have in common."""

    def __init__(  # noqa: PLR0913
        self, student: nn.Module, config: RunConfig, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> None:
        self.module, self.device = student.to(device), device
        self.rank, self.world_size = rank, world_size
        self.split = split_batch(config.optim.batch_size, config.engine.micro_batch_size, world_size)
        self.bf16 = use_bf16(config, device)
        self.names = {parameter: name for name, parameter in student.named_parameters()}
        self.clip_norm = config.optim.clip_norm
        self.norm = 0.0  # of the last gradient
        self.with_gradient: list[nn.Parameter] = []  # at the last update
        self.held: dict[nn.Parameter, Tensor] = {}  # gradients that stay in place
        if config.engine.compile:
            compile_blocks(student)
        self.optimizer: Any = make_optimizer(student, config.optim, device)
        self._guarding = self.optimizer.register_step_pre_hook(lambda *_: self._guard())

    def __call__(self, *inputs: Tensor) -> Any:
        with self.autocast():
            return self.module(*inputs)

    def autocast(self) -> AbstractContextManager:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _guard(self) -> None:
        """Before the optimizer: norm and clipping; a gradient that is not finite is taken away, so no weight moves."""
        self.with_gradient = parameters = [p for p in self.names if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.norm = float(norm)  # waits for the device
        if not math.isfinite(self.norm):
            for parameter in parameters:
                parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        (loss / self.split.rounds).backward()

    def rescale(self, num_kept: int) -> None:
        """Make the gradient the mean over `num_kept` rounds, if others of this step were left out. Before `step`."""
        if num_kept < self.split.rounds:
            for parameter in self.names:
                if parameter.grad is not None:
                    parameter.grad *= self.split.rounds / num_kept

    def step(self, lr: float) -> float:
        """One update; returns the norm of the gradient, not finite where the update was left out."""
        self._set_lr(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.held:
            torch._foreach_zero_(list(self.held.values()))
            for parameter, gradient in self.held.items():
                parameter.grad = gradient
        return self.norm

    def hold_gradients(self) -> None:
        """Keep the gradients in the same tensors from now on: recorded kernels write there. After the first update."""
        if not self.held:
            self.held = {p: torch.zeros_like(p) if p.grad is None else p.grad for p in self.with_gradient}
            for parameter, gradient in self.held.items():
                parameter.grad = gradient

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Of numbers that the host knows: no device is waited for. The ranks wait for each other."""
        return list(numbers)

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        yield {name: parameter.detach() for parameter, name in self.names.items()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """'name/exp_avg', 'name/exp_avg_sq' -> whole tensors on the CPU; empty before the first update."""
        state = {}
        for parameter, name in self.names.items():
            for moment in MOMENTS:
                value = self._read_moment(parameter, moment)
                if value is not None:
                    state[f"{name}/{moment}"] = value.detach().cpu().clone()
        return state

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        """What `optimizer_state` gave; weights are loaded into the student before the engine is made.

        Raises UserError where a moment is absent or of another size.
        """
        if not state:
            return
        for parameter, name in self.names.items():
            expected = getattr(parameter, "ds_numel", parameter.numel())  # under ZeRO-3 each rank has a part of it
            for moment in MOMENTS:
                found = state.get(f"{name}/{moment}")
                if found is None or found.numel() != expected:
                    what = "is absent" if found is None else f"has {found.numel():,} of {expected:,} numbers"
                    raise UserError(
                        f"optimizer.safetensors of the checkpoint does not fit: {name}/{moment} {what}; expected the "
                        "optimizer's state of this model (init.weights=RUN starts a new run from the weights alone)"
                    )
        self._make_moments(num_updates)
        for parameter, name in self.names.items():
            for moment in MOMENTS:
                self._write_moment(parameter, moment, state[f"{name}/{moment}"].to(self.device))

    def _read_moment(self, parameter: nn.Parameter, moment: str) -> Tensor | None:
        return self.optimizer.state.get(parameter, {}).get(moment)

    def _make_moments(self, num_updates: int) -> None:
        for parameter in self.names:
            self.optimizer.state[parameter] = _fresh_state(parameter, num_updates, self.device)

    def _write_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        self.optimizer.state[parameter][moment].copy_(value)

    def close(self) -> None:
        """Nothing to give back."""


class DeepSpeedEngine(PlainEngine):
    """ZeRO 0 to 3 under DeepSpeed's launcher. Optimizer, clipping and batch come from our config, nowhere else."""

    def __init__(self, student: nn.Module, config: RunConfig, device: torch.device) -> None:
        import deepspeed

        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # DeepSpeed's calls, not ours
        self._deepspeed = deepspeed
        self.stage = config.engine.zero_stage
        # beside NCCL's: what the hosts tell each other does not stand in the queue of the GPUs
        self.host_group: Any = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        super().__init__(student, config, device, dist.get_rank(), dist.get_world_size())
        if self.stage > 0:  # there the gradients are DeepSpeed's shards, which it guards and clips itself
            self._guarding.remove()
        num_parameters = sum(parameter.numel() for parameter in self.names)
        settings = deepspeed_settings(config, self.split, self.bf16, num_parameters)
        initialized = deepspeed.initialize(model=student, optimizer=self.optimizer, config=settings)
        self.engine, self.optimizer = initialized[0], initialized[1]
        self.module = self.engine.module

    def __call__(self, *inputs: Tensor) -> Any:
        return self.engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def rescale(self, num_kept: int) -> None:
        if self.stage == 0:
            super().rescale(num_kept)
        else:  # the gradients are in shards, which DeepSpeed divides by its loss scale (1) before the update
            self.optimizer.cur_scale = num_kept / self.split.rounds

    def step(self, lr: float) -> float:
        self._set_lr(lr)
        self.engine.step()
        if self.stage == 0:
            return self.norm
        self.optimizer.cur_scale = 1.0
        return float(self.engine.get_global_grad_norm())

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, group=self.host_group)
        return values.tolist()

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Under ZeRO-3 the weights of one module at a time are gathered; else all at once."""
        if self.stage < 3:
            yield from super().weight_groups()
            return
        groups: dict[str, list[nn.Parameter]] = {}
        for parameter, name in self.names.items():
            groups.setdefault(name.rpartition(".blocks.")[0] + name.rpartition(".blocks.")[2][:2], []).append(parameter)
        for parameters in groups.values():
            with self._deepspeed.zero.GatheredParameters(parameters):
                yield {self.names[p]: p.detach() for p in parameters}

    def _raw_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer if self.stage == 0 else self.optimizer.optimizer

    def _flat_partitions(self) -> list[Tensor]:
        if self.stage == 3:
            return self.optimizer.fp32_partitioned_groups_flat
        return self.optimizer.single_partition_of_fp32_groups

    def _read_moment(self, parameter: nn.Parameter, moment: str) -> Tensor | None:
        if self.stage == 0:
            return super()._read_moment(parameter, moment)
        if not any(moment in state for state in self._raw_optimizer().state.values()):
            return None
        return self._deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)

    def optimizer_state(self) -> dict[str, Tensor]:
        self._link_moments()
        return super().optimizer_state()

    def _link_moments(self) -> None:
        """DeepSpeed links moments to parameters after the first group's first step, when other groups have none yet: again."""
        if self.stage in (1, 2) and self._raw_optimizer().state:
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _make_moments(self, num_updates: int) -> None:
        if self.stage == 0:
            return super()._make_moments(num_updates)
        for flat in self._flat_partitions():
            self._raw_optimizer().state[flat] = _fresh_state(flat, num_updates, self.device)
        self._link_moments()

    def _write_moment(self, parameter: nn.Parameter, moment: str, value: Tensor) -> None:
        if self.stage == 0:
            super()._write_moment(parameter, moment, value)
        elif self.stage < 3:
            self._deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)
        else:  # this rank's slice of the flat, padded tensor
            size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            flat = torch.zeros(size * self.world_size, device=value.device)
            flat[: value.numel()] = value.flatten()
            own = flat[self.rank * size : (self.rank + 1) * size]
            self._deepspeed.utils.safe_set_local_optimizer_state(parameter, own, moment)

    def close(self) -> None:
        self.engine.destroy()


def _fresh_state(like: Tensor, num_updates: int, device: torch.device) -> dict[str, Tensor]:
    count = torch.tensor(float(num_updates), device=device if device.type == "cuda" else "cpu")
    return {"step": count, "exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}


def bucket_size(num_parameters: int) -> int:
    """Numbers of DeepSpeed's buffer to reduce gradients, which every rank allocates: all of them in one go, in parts of at
    most MOST_REDUCED. DeepSpeed's own default (5e8) takes 1.9 GiB of a rank for a model of any size."""
    return min(num_parameters, MOST_REDUCED)


def deepspeed_settings(config: RunConfig, split: Split, bf16: bool, num_parameters: int) -> dict[str, Any]:
    """DeepSpeed's own configuration, from ours; engine.deepspeed_json may add keys, never change one."""
    ours: dict[str, Any] = {
        "train_batch_size": split.batch_size,
        "train_micro_batch_size_per_gpu": split.micro,
        "gradient_accumulation_steps": split.rounds,
        "managed_gradient_accumulation": False,  # each step() is the boundary: a left-out micro batch shifts nothing
        "zero_optimization": {"stage": config.engine.zero_stage, "overlap_comm": False},
        "steps_per_print": 10**9,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
    }
    if config.optim.clip_norm is not None and config.engine.zero_stage > 0:
        ours["gradient_clipping"] = config.optim.clip_norm
    buckets = {"reduce_bucket_size": bucket_size(num_parameters)}
    if config.engine.deepspeed_json is None:
        return ours | {"zero_optimization": buckets | ours["zero_optimization"]}
    file = Path(config.engine.deepspeed_json)
    try:
        theirs = read_json(file, dict, "settings of DeepSpeed, a JSON object")
    except UserError as error:
        raise UserError(f"engine.deepspeed_json: {error}") from error
    merged = _merge_settings(ours, theirs, file, "")
    return merged | {"zero_optimization": buckets | merged["zero_optimization"]}


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


def merge_shards(folder: Path) -> dict[str, Tensor]:
    """Whole fp32 weights by name from a checkpoint folder of DeepSpeed. Reads pickles: only of a source that is trusted.

    Raises UserError without DeepSpeed, and DeepSpeed's own errors.
    """
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise UserError(
            f"deepspeed is not installed ({error}); it is needed to read {folder}: pip install deepspeed"
        ) from error
    with contextlib.redirect_stdout(None):
        found = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def use_bf16(config: RunConfig, device: torch.device) -> bool:
    if config.engine.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.engine.precision == "bf16"


def resolve_kind(config: RunConfig) -> str:
    """plain or deepspeed; UserError where the two do not go with how the program was started."""
    kind = config.engine.kind
    if kind == "auto":
        return "deepspeed" if started_by_launcher() else "plain"
    if kind == "plain" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"engine.kind: plain is one process, but {os.environ['WORLD_SIZE']} were started; expected deepspeed"
        )
    if kind == "deepspeed" and not started_by_launcher():
        raise UserError(
            "engine.kind: deepspeed, but not started by its launcher; expected: deepspeed scripts/pretrain_ssv2.py ..."
        )
    return kind


def local_world_size() -> int:
    """Return how many ranks share this machine."""
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    return next((int(os.environ[n]) for n in names if int(os.environ.get(n, 0)) > 0), 1)


def prepare_process(config: RunConfig) -> torch.device:
    """Device, threads and (under a launcher) the process group. Called once, before anything is built."""
    refuse_foreign_launchers()
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), local_world_size()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.engine.num_threads or max(1, cores // local_size))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if resolve_kind(config) == "deepspeed":
        try:
            import deepspeed
        except ImportError as error:
            raise UserError(
                f"deepspeed is not installed ({error}); expected: pip install deepspeed, or engine.kind=plain"
            ) from error
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # On CPUs DeepSpeed compiles a shared-memory all-reduce: a minute where there is a C++ compiler, a crash where not.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does the same sums
        if not dist.is_initialized():
            try:
                deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
            except RuntimeError as error:  # among them those of a rank that has ended meanwhile
                reason = str(error).strip().splitlines()[:1]
                raise UserError(
                    f"the processes did not find each other ({' '.join(reason)}); another rank may say why"
                ) from error
    return device


def make_engine(student: nn.Module, config: RunConfig, device: torch.device) -> PlainEngine:
    kind = DeepSpeedEngine if resolve_kind(config) == "deepspeed" else PlainEngine
    return kind(student, config, device)

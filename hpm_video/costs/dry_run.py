"""A training step without numbers: the real step on tensors that have shapes and no memory, and what each stage of it
computes, moves and keeps. Takes seconds for a model of any size, on any machine.

Multiply-adds: linear maps and the two products of attention, by the formulas of torch.utils.flop_counter (half of its FLOPs).
The backward pass of fused attention computes the scores once more: five products for the two of the forward pass.

Bytes: each operation reads its inputs and writes its outputs once, as kernels of PyTorch without torch.compile do; views
are free, a broadcast input counts as stored, of what is indexed only that is read which is taken, attention is one
operation. Caches are not modelled, so it is an upper bound for small tensors.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import token_grid
from hpm_video.costs.flops import count_target
from hpm_video.method.masking.units import make_layout
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.features import FeatureTarget
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student, target_width
from hpm_video.types import BatchSlice

STAGES = (
    "teacher: patch embedding",
    "teacher: encoder",
    "teacher: predictor",
    "patch embedding",
    "encoder",
    "pixel decoder",
    "predictor",
    "head",
    "target network",
    "masks, targets, losses",
)
REST = STAGES[-1]
CPU, META = torch.device("cpu"), torch.device("meta")  # of the tensors without memory


class Cost(NamedTuple):
    """Of one pass through a stage, all clips of the micro batch."""

    macs: int = 0
    moved_bytes: int = 0

    def __add__(self, other: tuple) -> "Cost":
        return Cost(self.macs + other[0], self.moved_bytes + other[1])


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Of one micro batch; `peak_bytes` is on top of weights, gradients, optimizer and teacher."""

    num_clips: int
    forward: Mapping[str, Cost]  # by stage; the teacher's where this step asks it
    backward: Mapping[str, Cost]
    saved_bytes: int  # kept by the forward pass for the backward pass, parameters left out
    peak_bytes: int  # the most that lives at one time: what is saved, and temporary tensors
    num_parameters: Mapping[str, int]  # of each part of the student (`encoder`, ...), and `student`, `teacher`

    @property
    def macs(self) -> float:
        """Of one clip, forward and backward, all stages."""
        return sum(cost.macs for cost in (*self.forward.values(), *self.backward.values())) / self.num_clips

    @property
    def ema_bytes(self) -> int:
        """Of one update: the student's weights are read, the teacher's read and written, all fp32."""
        return 12 * self.num_parameters.get("teacher", 0)

    @property
    def optimizer_bytes(self) -> int:
        """Of one update: gradients are read, weights and two moments read and written."""
        return 28 * self.num_parameters["student"]


class Machine:
    """`hpm_video.types.Engine` around tensors without memory: the student, and the precision of its forward pass."""

    rank, world_size, device = 0, 1, CPU

    def __init__(self, module: nn.Module, bf16: bool) -> None:
        self.module, self.bf16 = module, bf16

    def __call__(self, *inputs: Tensor) -> Any:
        with self.autocast():
            return self.module(*inputs)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        yield dict(self.module.named_parameters())


class Meter(TorchDispatchMode):
    """Books what runs on the stage that was entered last, and follows how many bytes of new tensors are alive.

    Torch's FlopCounterMode itself keeps tensors alive when blocks are recomputed; its formulas are used without it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.costs = REST, dict.fromkeys(STAGES, Cost())
        self.alive = self.peak = 0
        self.known: set[int] = set()  # storages that are counted, or that were there before

    def take_costs(self) -> dict[str, Cost]:
        costs, self.stage, self.costs = self.costs, REST, dict.fromkeys(STAGES, Cost())
        return costs

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        before = {_storage_key(x) for x in inputs}
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        made = [x for x in outputs if _storage_key(x) not in before]
        for x in made:
            self._follow(x)
        moved = 0
        if made or func._schema.is_mutable:
            written = outputs if func._schema.is_mutable else made
            moved = sum(map(_num_bytes, [*(made + inputs[1:] if func in _TAKING else inputs), *written]))
        self.costs[self.stage] += Cost(_count_flops(func, args, kwargs or {}, result) // 2, moved)
        return result

    def _follow(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


_ATEN = torch.ops.aten
_TAKING = (_ATEN.index.Tensor, _ATEN.index_select.default, _ATEN.gather.default)  # from their first input


def _count_flops(func: Any, args: tuple, kwargs: Mapping[str, Any], result: Any) -> int:
    packet = func._overloadpacket
    if packet in _ATTENTION:
        return _ATTENTION[packet](*args[:4])
    return flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0


def _storage_key(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _num_bytes(x: Tensor) -> int:
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


def dry_run(config: PretrainConfig, num_clips: int, bf16: bool) -> DryRun:
    """A step of the end of a run, in which the teacher is asked, on so many clips. Raises UserError as `Student` does."""
    with META:
        student = Student(config)
    step = _build_step(config, student)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _place(config, student, step)
        for parameter in student.parameters():  # as it is from the second accumulation round on
            parameter.grad = torch.empty_like(parameter)
        clip = torch.empty(num_clips, config.data.num_frames, *config.data.frame_size_px, 3).permute(0, 4, 1, 2, 3)
        with Meter() as meter:
            forward, backward, saved = _go(step, student, clip, bf16, meter)
    forward |= {"target network": _target_cost(config, num_clips)}
    return DryRun(
        num_clips=num_clips,
        forward=forward,
        backward=backward,
        saved_bytes=saved,
        peak_bytes=meter.peak,
        num_parameters=_count_parameters(student, step),
    )


def dry_run_classifier(config: FinetuneConfig, num_classes: int, bf16: bool) -> DryRun:
    """Return a step of fine-tuning on one clip; stages are not told apart."""
    with META:
        classifier = Classifier(config, num_classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        classifier.to_empty(device=CPU)
        for parameter in classifier.parameters():
            parameter.grad = torch.empty_like(parameter)
        clip = torch.empty(1, config.data.num_frames, *config.data.frame_size_px, 3).permute(0, 4, 1, 2, 3)
        with Meter() as meter:
            loss = Machine(classifier, bf16)(clip).logsumexp(1).mean()
            forward = meter.take_costs()
            loss.backward()
    count = sum(p.numel() for p in classifier.parameters())
    return DryRun(
        num_clips=1,
        forward=forward,
        backward=meter.take_costs(),
        saved_bytes=0,
        peak_bytes=meter.peak,
        num_parameters={"student": count, "teacher": 0 if config.optim.average_decay is None else count},
    )


def _build_step(config: PretrainConfig, student: Student) -> PretrainStep:
    """The network that gives features as targets needs a file of weights: in its place, features of its shape."""
    if TARGETS[config.objective.target].network is None:
        return PretrainStep(config, student, META)
    step = PretrainStep(replace(config, objective=replace(config.objective, target="raw")), student, META)
    t, h, w = token_grid(config)
    step.target = FeatureTarget(lambda clip: clip.new_empty(clip.shape[0], t * h * w, target_width(config)))
    return step


def _place(config: PretrainConfig, student: Student, step: PretrainStep) -> None:
    """From the meta device to tensors that say they are on the CPU, where autocast is known."""
    student.to_empty(device=CPU)
    layout = make_layout(config, CPU)
    step.layouts, step.units = {"video": layout}, layout.units
    if step.teacher is not None:
        step.teacher.network.to_empty(device=CPU)
        step.teacher.units = layout.units


def _go(
    step: PretrainStep, student: Student, clip: Tensor, bf16: bool, meter: Meter
) -> tuple[dict[str, Cost], dict[str, Cost], int]:
    """(forward, backward, bytes that were saved between them)."""
    _watch(meter, student, "")
    if step.teacher is not None:
        _watch(meter, step.teacher.network, "teacher: ")
    own, saved = {_storage_key(p) for p in student.parameters()}, {}

    def pack(x: Tensor) -> Tensor:
        if _storage_key(x) not in own:
            saved[_storage_key(x)] = x.untyped_storage().nbytes()
        return x

    rows, num_hard = BatchSlice(0, len(clip), len(clip)), step.num_hard(1.0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        journey = step.forward(Machine(student, bf16), clip, rows, 0, num_hard)
    forward = meter.take_costs()
    journey.losses.total.backward()
    return forward, meter.take_costs(), sum(saved.values())


def _watch(meter: Meter, network: Student, prefix: str) -> None:
    """Tells the meter when the parts of a network begin and end, and when their backward passes begin. Blocks as well as what
    they are part of: a predictor may stand on the first of them alone."""
    own = [getattr(network, name, None) for name in ("loss_head", "early_norm", "early_project")]
    parts: dict[str, list[nn.Module | None]] = {
        "patch embedding": [network.encoder.embed],
        "encoder": [network.encoder, *network.encoder.stack.blocks, network.project],
        "pixel decoder": [network.decoder, *network.decoder.blocks],
        "predictor": [network.predictor, *own],
        "head": [getattr(network, "pixel_head", None)],
    }
    if prefix:  # what a teacher has of a pixel decoder is there for its predictor
        parts["predictor"] += parts.pop("pixel decoder")
    before: list[str] = []

    def begin(stage: str, *_: Any) -> None:
        before.append(meter.stage)
        meter.stage = stage

    def end(stage: str, module: nn.Module, inputs: Any, output: Any) -> None:
        meter.stage = before.pop()
        for tensor in tree_leaves(output):  # an encoder whose early tokens are asked for gives two
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: begin_backward(stage))

    def begin_backward(stage: str) -> None:
        meter.stage = stage

    for name, modules in parts.items():
        for module in modules:
            if module is not None:
                module.register_forward_pre_hook(partial(begin, prefix + name))
                module.register_forward_hook(partial(end, prefix + name))


def _target_cost(config: PretrainConfig, num_clips: int) -> Cost:
    """Of teacher_features it is among the teacher's; the bytes of the others are not known."""
    return Cost(num_clips * count_target(config)) if TARGETS[config.objective.target].network else Cost()


def _count_parameters(student: Student, step: PretrainStep) -> dict[str, int]:
    parts: dict[str, nn.Module | None] = {**dict(student.named_children()), "student": student, "teacher": step.beside}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    """Of [B, heads, L, d]: two products, two FLOPs for each pair of tokens and each channel."""
    b, heads, length, width = query.shape
    return 2 * b * heads * length * key.shape[2] * (width + value.shape[3])


def _attention_backward_flops(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> int:
    """Five products: the scores again, and the gradients of values, scores, queries and keys."""
    b, heads, length, width = query.shape
    return 2 * b * heads * length * key.shape[2] * (3 * width + 2 * value.shape[3])


_ATTENTION: dict[Any, Callable[..., int]] = {  # torch has formulas for the kernels of GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}

"""Run a training step on tensors that have shapes but no memory, and report what each stage computes, moves and keeps.

This takes seconds for a model of any size, on any machine. What is counted, and how: `hpm_video/costs/meter.py`.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Geometry
from hpm_video.costs.meter import Cost, Meter, storage_key
from hpm_video.costs.stages import STAGES, TARGET, count_target
from hpm_video.method.masking.units import make_layout
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.features import FeatureTarget
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student, target_width
from hpm_video.types import BatchSlice

CPU, META = torch.device("cpu"), torch.device("meta")  # of the tensors without memory


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The costs of one micro batch; `peak_bytes` is on top of weights, gradients, optimizer and teacher."""

    num_clips: int
    forward: Mapping[str, Cost]  # by stage; with the teacher's if the step needs it
    backward: Mapping[str, Cost]
    saved_bytes: int  # kept by the forward pass for the backward pass, without parameters
    peak_bytes: int  # the most that is alive at one time: saved and temporary tensors
    num_parameters: Mapping[str, int]  # of each part of the student (`encoder`, ...), of `student` and `teacher`

    @property
    def macs(self) -> float:
        """Multiply-adds of one clip, forward and backward, all stages."""
        return sum(cost.macs for cost in (*self.forward.values(), *self.backward.values())) / self.num_clips

    @property
    def ema_bytes(self) -> int:
        """Bytes that an EMA update moves: the student's weights are read, the teacher's read and written, all fp32."""
        return 12 * self.num_parameters.get("teacher", 0)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes that an update of AdamW moves: gradients are read, weights and two moments read and written."""
        return 28 * self.num_parameters["student"]


class Machine:
    """An `hpm_video.types.Engine` around tensors without memory: the student, and the precision of its forward pass."""

    rank, world_size, device = 0, 1, CPU

    def __init__(self, module: nn.Module, bf16: bool) -> None:
        self.module, self.bf16 = module, bf16

    def __call__(self, *inputs: Tensor) -> Any:
        with self.autocast():
            return self.module(*inputs)

    def autocast(self) -> AbstractContextManager:
        """Return the precision of the forward pass."""
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def weight_groups(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield all weights by name."""
        yield dict(self.module.named_parameters())


def dry_run(config: PretrainConfig, num_clips: int, bf16: bool) -> DryRun:
    """Run a step as at the end of a run, with the teacher. Raises UserError as `Student.of` does."""
    geometry = Geometry.of(config)
    with META:
        student = Student.of(config)
    step = _build_step(config, student)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _place(geometry, student, step)
        for parameter in student.parameters():  # as from the second accumulation round on
            parameter.grad = torch.empty_like(parameter)
        clip = _empty_clips(geometry, num_clips)
        with Meter() as meter:
            forward, backward, saved = _run_step(step, student, clip, bf16, meter)
    forward |= {TARGET: _target_cost(config, num_clips)}
    return DryRun(
        num_clips=num_clips,
        forward=forward,
        backward=backward,
        saved_bytes=saved,
        peak_bytes=meter.peak,
        num_parameters=_count_parameters(student, step),
    )


def dry_run_classifier(config: FinetuneConfig, num_classes: int, bf16: bool) -> DryRun:
    """Run a step of fine-tuning on one clip; stages are not distinguished. Raises UserError as `Classifier.of` does."""
    with META:
        classifier = Classifier.of(config, num_classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        classifier.to_empty(device=CPU)
        for parameter in classifier.parameters():
            parameter.grad = torch.empty_like(parameter)
        clip = _empty_clips(Geometry.of(config), 1)
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


def _empty_clips(geometry: Geometry, num_clips: int) -> Tensor:
    """Return clips [B, C, T, H, W] stored as the loader's are, [B, T, H, W, C]."""
    channels, *rest = geometry.clip_shape
    return torch.empty(num_clips, *rest, channels).permute(0, 4, 1, 2, 3)


def _build_step(config: PretrainConfig, student: Student) -> PretrainStep:
    """Return the step. A target network would need a file of weights, so tensors with the shape of its features replace it."""
    if TARGETS[config.objective.target].network is None:
        return PretrainStep(config, student, META)
    step = PretrainStep(replace(config, objective=replace(config.objective, target="raw")), student, META)
    num_tokens = Geometry.of(config).num_tokens
    step.target = FeatureTarget(lambda clip: clip.new_empty(clip.shape[0], num_tokens, target_width(config)))
    return step


def _place(geometry: Geometry, student: Student, step: PretrainStep) -> None:
    """Move the networks from the meta device to tensors that pretend to be on the CPU, where autocast works."""
    student.to_empty(device=CPU)
    layout = make_layout(geometry, CPU)
    step.layouts, step.units = {"video": layout}, layout.units
    if step.teacher is not None:
        step.teacher.network.to_empty(device=CPU)
        step.teacher.units = layout.units


def _run_step(
    step: PretrainStep, student: Student, clip: Tensor, bf16: bool, meter: Meter
) -> tuple[dict[str, Cost], dict[str, Cost], int]:
    """Return the costs of the forward pass and of the backward pass, and the bytes saved in between."""
    _watch(meter, student, is_teacher=False)
    if step.teacher is not None:
        _watch(meter, step.teacher.network, is_teacher=True)
    own, saved = {storage_key(p) for p in student.parameters()}, {}

    def pack(x: Tensor) -> Tensor:
        if storage_key(x) not in own:
            saved[storage_key(x)] = x.untyped_storage().nbytes()
        return x

    rows, num_hard = BatchSlice(0, len(clip), len(clip)), step.num_hard(1.0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = step.forward(Machine(student, bf16), clip, rows, 0, num_hard)
    forward = meter.take_costs()
    result.losses.total.backward()
    return forward, meter.take_costs(), sum(saved.values())


def _watch(meter: Meter, network: Student, is_teacher: bool) -> None:
    """Tell the meter when the parts of a network begin and end, and when their backward passes begin."""
    before: list[str] = []

    def begin(stage: str, *_: Any) -> None:
        before.append(meter.stage)
        meter.stage = stage

    def end(stage: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        meter.stage = before.pop()
        if output.requires_grad:
            output.register_hook(lambda gradient: begin_backward(stage))

    def begin_backward(stage: str) -> None:
        meter.stage = stage

    for stage in STAGES:
        name = stage.teacher_name if is_teacher else stage.name
        for module in stage.parts(network):
            module.register_forward_pre_hook(partial(begin, name))
            module.register_forward_hook(partial(end, name))


def _target_cost(config: PretrainConfig, num_clips: int) -> Cost:
    """Return the cost of the target network, whose bytes are unknown. The teacher's stages include that of teacher_features."""
    return Cost(num_clips * count_target(config)) if TARGETS[config.objective.target].network else Cost()


def _count_parameters(student: Student, step: PretrainStep) -> dict[str, int]:
    parts: dict[str, nn.Module | None] = {**dict(student.named_children()), "student": student, "teacher": step.beside}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}

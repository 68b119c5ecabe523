"""Any keys, any YAML: a configuration that works, or one sentence. Never another exception, a hang or gigabytes."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpm_video.cli import main
from hpm_video.config import DataConfig, FinetuneConfig, PretrainConfig, load_config, load_finetune_config, to_yaml
from hpm_video.config.batch import split_batch
from hpm_video.config.geometry import has_images, image_data
from hpm_video.config.schema import all_fields, default_of
from hpm_video.data.augment import make_finetune_transform
from hpm_video.data.transforms import Normalise, make_transform
from hpm_video.evals.finetuned.views import cut_views
from hpm_video.method.finetune_step import FinetuneStep
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.train.finetune import build_classifier
from hpm_video.train.optim import lr_at, make_optimizer
from hpm_video.train.run import num_steps
from hpm_video.types import Batch, BatchSlice, UserError

QUICK: Any = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
REQUIRED = ["data.root=somewhere", "train.output=run"]
FIELDS = {"pretrain": dict(all_fields(PretrainConfig)), "finetune": dict(all_fields(FinetuneConfig))}
LOAD: dict[str, Callable] = {"pretrain": load_config, "finetune": load_finetune_config}
kinds = st.sampled_from(list(LOAD))


def load(kind: str, file: Path | None, overrides: list[str]) -> Any:
    """The configuration, or None after one sentence of some length."""
    try:
        config = LOAD[kind](file, overrides)
    except UserError as error:
        assert 0 < len(str(error)) < 3000
        return None
    return config


# any text as a list of overrides

NAMES = sorted({*FIELDS["pretrain"], *FIELDS["finetune"]})
STRANGE = [
    "",
    "data",
    "data.",
    ".root",
    "a..b",
    "data.root.x",
    "data.mean[0]",
    "preset",
    "a.b.c.d",
    "x\x00y",
    "data.ro\not",
]
ODD = "nan .nan .inf -.inf ~ ??? true no 0 -1 -0.0 1e308 1e-320 1e999 0x10 1_000 1:30 2001-01-01 '' \"\\0\" [] {} [[]] [1,2 {a:1 & * ! "
ODD += "!!int !!python/object:os.system !!binary | > % @ ` - ? : , # << ${model.depth} ${data.root} ${nowhere} ${oc.env:HOME} ${ \\${a.b} "
ODD += "${${a.b}}"
LONG = [
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 5000,
    "[" * 3000,
    "a" * 5000,
    "- " * 3000,
    "é\u202e\x1b[31m",
    "\ud800",
    '"\\ud800"',
]
names = st.one_of(st.sampled_from(NAMES), st.sampled_from(STRANGE), st.text(max_size=8))
scalars = st.one_of(
    *(st.sampled_from(ODD.split(" ")), st.sampled_from(LONG)),
    *(st.integers().map(str), st.floats().map(str), st.text(max_size=12)),
)


def nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
    return st.one_of(
        lists, st.tuples(st.sampled_from(["a", "width"]), inner).map(lambda pair: "{" + ": ".join(pair) + "}")
    )


values = st.recursive(scalars, nest, max_leaves=6)
texts = st.lists(st.one_of(st.tuples(names, values).map("=".join), st.text(max_size=12)), max_size=3)


@settings(max_examples=150, **QUICK)
@given(kind=kinds, overrides=texts)
def test_any_overrides(kind: str, overrides: list[str]) -> None:
    load(kind, None, REQUIRED + overrides)


@pytest.mark.slow
@settings(max_examples=20_000, **QUICK)
@given(kind=kinds, overrides=texts)
def test_many_overrides(kind: str, overrides: list[str]) -> None:
    load(kind, None, REQUIRED + overrides)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(LOAD))
@pytest.mark.parametrize(
    "value", [*ODD.split(" "), *LONG, "a\0b", "${train.seed}", "[???]"], ids=lambda value: ascii(value)[:20]
)
def test_every_key_takes_or_refuses(kind: str, value: str) -> None:
    for name in FIELDS[kind]:
        load(kind, None, [*REQUIRED, f"{name}={value}"])


# any file

PIECES = [
    "data:",
    " root: x",
    "\n",
    "  ",
    "- ",
    "? ",
    ": ",
    "&a ",
    "*a ",
    "!!python/name:os.system ",
    "<<: ",
    "%YAML 9\n",
    "---\n",
]
PIECES += ["...\n", "\t", "model:\n", "  depth: 2\n", "|\n", "'", '"', "{", "}", "[", "]", "\x00", "\x85", "\ufeff"]
pieces = st.one_of(st.sampled_from(PIECES), st.text(max_size=6))
contents = st.one_of(
    st.binary(max_size=60), st.lists(pieces, max_size=12).map(lambda some: "".join(some).encode(errors="surrogatepass"))
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)  # 9 ** 9 values
HARD = [
    *(BOMB.encode(), b"a: &a [*a]", b"a: &a {b: *a}", b"a: *b", b"[" * 100_000, b"x: " + b"{a: " * 30_000),
    *(b"data: {root: a}\ndata: {root: b}\n", b"\xff\xfed\x00a\x00", b"? [a, b]\n: 1", b"text", b"3", b"- a", b""),
    *(b"data: !!python/object/apply:os.system ['exit 3']", b"data:\n  root: !!python/object/apply:pathlib.Path [a]"),
    *(
        b"data: [1]\nmodel: 3",
        b"data: {root: [" + b"1," * 30_000 + b"]}",
        b"data: {root: '${oc.env:HOME}'}",
        b"1: 2\nnull: 3",
    ),
]


def read_both(folder: Path, content: bytes) -> None:
    file = folder / "any.yaml"
    file.write_bytes(content)
    for kind in LOAD:
        load(kind, file, REQUIRED)


@settings(max_examples=100, **QUICK)
@given(content=contents)
def test_any_file(tmp_path_factory, content: bytes) -> None:
    read_both(tmp_path_factory.getbasetemp(), content)


@pytest.mark.slow
@settings(max_examples=20_000, **QUICK)
@given(content=contents)
def test_many_files(tmp_path_factory, content: bytes) -> None:
    read_both(tmp_path_factory.getbasetemp(), content)


@pytest.mark.parametrize("content", HARD, ids=lambda content: content[:24])
def test_hard_file(tmp_path, content: bytes) -> None:
    read_both(tmp_path, content)


# references: to keys, and to nothing else

SECRET = "not-for-the-output-of-a-command"
CALLS = [
    "${oc.env:A_SECRET}",
    "x${oc.env:A_SECRET}y",
    "${oc.decode:'1'}",
    "${oc.create:{a: 1}}",
    "${oc.env:A_SECRET,${model.depth}}",
]
CALLS += [
    "${oc.select:data.root}",
    "${model.${oc.env:A_SECRET}}",
    "\\${oc.env:A_SECRET}",
    "${.root}",
    "${model}",
    "${model.depth",
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("where", ["command line", "file", "list", "weights", "run"])
def test_only_keys_are_looked_up(tmp_path, monkeypatch, capsys, call: str, where: str) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)
    name = "data.mean" if where == "list" else "train.output"
    value = [call, 1, 1] if where == "list" else call
    tree = {"data": {"root": "x"}, "train": {"output": "y"}} | {name.split(".")[0]: {name.split(".")[1]: value}}
    (tmp_path / "config.yaml").write_text(json.dumps(tree))
    if where == "run":
        assert main(["show", str(tmp_path)]) == 1 and main(["knn", str(tmp_path)]) == 1
        said = capsys.readouterr().err
    else:
        with pytest.raises(UserError) as caught:
            if where == "weights":
                load_config(overrides=REQUIRED, base={"data": {"mean": [call, 1, 1]}})
            elif where == "command line":
                load_config(overrides=[*REQUIRED, f"{name}={call}"])
            else:
                load_config(tmp_path / "config.yaml", ["data.root=x"])
        said = str(caught.value)
    assert SECRET not in said and ("data.mean" in said or "train.output" in said)


def test_references_to_keys_work() -> None:
    config = load_config(
        overrides=["data.root=x", "train.output=runs/${data.root}_${train.seed}", "train.steps=${optim.batch_size}"]
    )
    assert (config.train.output, config.train.steps) == ("runs/x_0", config.optim.batch_size)
    linked = [*REQUIRED, "model.decoder_depth=3", "model.predictor_depth=${model.decoder_depth}"]
    assert load_config(overrides=linked).model.predictor_depth == 3


@pytest.mark.parametrize(
    "keys", [["model.depth=${model.width}", "model.width=${model.depth}"], ["data.mean=${data.root}"]]
)
def test_references_in_a_circle(keys: list[str]) -> None:
    with pytest.raises(UserError, match="expected"):
        load_config(overrides=[*REQUIRED, *keys])


# values that each key takes: what they make together works, or is refused

TINY: dict[str, Any] = {
    "data.num_frames": 4,
    "data.frame_size_px": [16, 16],
    "data.num_workers": 0,
    "model.patch_px": 8,
    "model.width": 16,
    "model.depth": 2,
    "model.num_heads": 2,
    "optim.batch_size": 4,
    "train.steps": 4,
}
TINY_BEHIND = {"model.decoder_width": 8, "model.decoder_heads": 1, "model.decoder_depth": 1, "mask.ratio": 0.5}
SMALL: dict[str, st.SearchStrategy[Any]] = {
    "model.size": st.just("ti"),
    "model.width": st.sampled_from([4, 6, 7, 12, 16, 18]),
    "model.decoder_width": st.sampled_from([1, 4, 6, 8, 16]),
    "data.num_frames": st.sampled_from([1, 2, 4, 6, 8]),
    "data.frame_size_px": st.lists(st.sampled_from([8, 16, 24, 9, 0]), min_size=2, max_size=2),
    "model.patch_px": st.sampled_from([1, 4, 8, 3]),
    "model.position_grid": st.one_of(st.none(), st.lists(st.integers(0, 5), min_size=2, max_size=4)),
    "objective.target": st.sampled_from(["raw", "norm_token", "norm_channel", "teacher_features"]),
    "engine.compile": st.just(False),
    "engine.kind": st.just("plain"),
    "train.epochs": st.sampled_from([0.0, 0.5, 3.0, 1e6]),
    "images.root": st.sampled_from([None, "pictures"]),
    "augment.crop_area": st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.5]), min_size=2, max_size=2),
    "data.crop_area": st.lists(st.sampled_from([-0.1, 1e-9, 0.3, 1.0]), min_size=2, max_size=2),
    "data.crop_scales": st.lists(st.sampled_from([-1.0, 1e-9, 0.5, 1.0, 2.0]), min_size=1, max_size=3),
    "optim.betas": st.lists(st.sampled_from([-0.1, 0.0, 0.9, 1.0, 2.0]), min_size=2, max_size=2),
    "mask.block": st.lists(st.integers(-1, 3), min_size=3, max_size=3),
    "train.seed": st.sampled_from([0, 2**31, 2**63 - 1]),
}


def values_of(name: str, field: Any) -> st.SearchStrategy[Any]:
    """Values within the bounds of a key, with those at the bounds, but none that takes much memory."""
    if name in SMALL:
        return SMALL[name]
    least, most, default = field.metadata["least"], field.metadata["most"], default_of(field)
    if field.metadata["choices"]:
        return st.sampled_from(list(field.metadata["choices"]))
    if isinstance(default, bool):
        return st.booleans()
    if "list" in str(field.type):
        return st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(default), max_size=len(default))
    if "int" in str(field.type):
        low = -2 if least is None else int(least)
        return st.integers(low, low + 3)
    if "float" in str(field.type):
        low, high = 0.0 if least is None else least, 1e4 if most is None else most
        return st.one_of(st.sampled_from([low, high, 1e-300]), st.floats(low, min(high, low + 3)))
    return st.just("somewhere")


def settings_of(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    free = [n for n in FIELDS[kind] if n not in ("data.root", "train.output", "engine.deepspeed_json", "init.weights")]
    pairs = st.sampled_from(free).flatmap(lambda name: st.tuples(st.just(name), values_of(name, FIELDS[kind][name])))
    return st.lists(pairs, min_size=1, max_size=5).map(dict)


class Engine:
    """An engine of one process around a bare model."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, *inputs: Any) -> Any:
        return self.module(*inputs)

    def autocast(self) -> Any:
        return contextlib.nullcontext()

    def weight_groups(self) -> Any:
        yield {name: parameter.detach() for name, parameter in self.module.named_parameters()}


def clips_of(data: DataConfig, transform: Callable) -> torch.Tensor:
    """Two clips of random frames, cut by the transform."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (data.num_frames, 20, 25, 3)).astype(np.uint8)
    return Normalise(data)(torch.stack([transform(frames, rng) for _ in range(2)]))


def check_pretraining(values: dict[str, Any]) -> None:
    """UserError, or steps from random frames to the update of student and teacher."""
    keys = TINY | TINY_BEHIND | values
    try:
        config = load_config(overrides=REQUIRED + [f"{n}={json.dumps(v)}" for n, v in keys.items()])
        student = build_student(config)
    except UserError:
        return
    assert load_config(overrides=[f"{n}={json.dumps(v)}" for n, v in keys.items()] + REQUIRED) == config and to_yaml(
        config
    )
    step, rows, engine = PretrainStep(config, student, torch.device("cpu")), BatchSlice(0, 2, 2), Engine(student)
    split_batch(config.optim.batch_size, config.engine.micro_batch_size, 1)
    optimizer = make_optimizer(student, config.optim, torch.device("cpu"))
    seen, steps = {"video": config.data}, num_steps(config, 10)
    if has_images(config):
        seen["image"] = image_data(config)
    for now in (0, steps - 1):
        for kind, one in seen.items():
            clips = clips_of(one, make_transform(one, training=True))
            batch = Batch(clips, torch.tensor([-1, -1]), torch.arange(2), kind=kind)
            result, _ = step(engine, clips, rows, now, steps, batch)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(now, steps, config.optim)
        result.loss.backward()
        optimizer.step()
        step.after_update(engine, now, steps)
        step.settings_now(now, steps)


def check_fine_tuning(values: dict[str, Any]) -> None:
    """UserError, or a step from random frames to the update of model and average, and the views of a test."""
    keys = TINY | values
    try:
        config = load_finetune_config(None, REQUIRED + [f"{n}={json.dumps(v)}" for n, v in keys.items()])
        model = build_classifier(config, 3)
    except UserError:
        return
    clips = clips_of(config.data, make_finetune_transform(config.data, config.augment, False))
    step, engine, steps = FinetuneStep(config, model), Engine(model), num_steps(config, 10)
    optimizer = make_optimizer(model, config.optim, torch.device("cpu"))
    for group in optimizer.param_groups:
        group["lr"] = lr_at(0, steps, config.optim)
    result, _ = step(engine, clips, BatchSlice(0, 2, 2), 0, steps, Batch(clips, torch.tensor([0, 2]), torch.arange(2)))
    result.loss.backward()
    optimizer.step()
    step.after_update(engine, 0, steps)
    num_clips, num_crops = config.test.num_clips or 1, config.test.num_crops or 1
    frames = np.zeros((num_clips * config.data.num_frames, 20, 25, 3), np.uint8)
    assert len(cut_views(frames, num_clips, num_crops, config.data)) == num_clips * num_crops


CHECKS = {"pretrain": check_pretraining, "finetune": check_fine_tuning}
cases = kinds.flatmap(lambda kind: st.tuples(st.just(kind), settings_of(kind)))


@settings(max_examples=30, **QUICK)
@given(case=cases)
@example(case=("finetune", {"optim.betas": [1.0, 0.9]}))
@example(case=("finetune", {"augment.crop_area": [1.0, 0.1]}))
@example(case=("finetune", {"augment.mixup_alpha": 1e-300, "augment.cutmix_alpha": 0.0}))
@example(case=("pretrain", {"data.crop": "random_resized", "data.crop_area": [-0.1, 0.3]}))
def test_values_within_bounds_work_together(case: tuple[str, dict[str, Any]]) -> None:
    CHECKS[case[0]](case[1])


@pytest.mark.slow
@settings(max_examples=5_000, **QUICK)
@given(case=cases)
def test_many_values_within_bounds_work_together(case: tuple[str, dict[str, Any]]) -> None:
    CHECKS[case[0]](case[1])

"""Other engines and compilers on one device: the losses of the plain engine."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.utils.distributed import get_free_port

pytestmark = pytest.mark.gpu
ENGINES = ("ddp", "fsdp", "zero0", "zero1", "zero2", "zero3")
ONE_PROCESS = """
import json, os, sys
from dataclasses import replace
import torch
from hpm_video.config import load_config
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.engines.start import make_engine, prepare_process
from hpm_video.types import BatchSlice
keys, steps = json.loads(sys.argv[1]), int(sys.argv[2])
found = {}
for name in ("plain", *sys.argv[3:]):
    kind = "deepspeed" if name.startswith("zero") else "ddp" if name == "plain" else name
    config = load_config(None, [*keys, f"engine.kind={kind}", f"engine.zero_stage={name[-1] if kind == 'deepspeed' else 0}"])
    device = prepare_process(config)
    torch.set_float32_matmul_precision("highest")
    student = build_student(config)
    step = PretrainStep(config, student, device)
    engine = (PlainEngine if name == "plain" else make_engine)(student, config, device)
    count = config.optim.batch_size
    shape = (count, config.data.num_frames, *config.data.frame_size_px, 3)
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).permute(0, 4, 1, 2, 3)
    losses = []
    for now in range(steps, 2 * steps):
        result, _ = step(engine, clip, BatchSlice(0, count, count), now, 2 * steps)
        engine.backward(result.loss)
        engine.step(1e-3)
        step.after_update(engine, now, 2 * steps)
        losses.append(float(result.loss.detach()))
    found[name] = losses
    engine.close()
    print("@losses " + json.dumps(found), flush=True)
os._exit(0)
"""


def difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def test_every_engine_has_the_losses_of_the_plain_one(device, sizes, record_property) -> None:
    """In one process of its own, which is rank 0 of 1."""
    there = importlib.util.find_spec("deepspeed") is not None
    engines = [name for name in ENGINES if there or not name.startswith("zero")]
    env = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
    root = str(Path(__file__).parents[2])
    env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    env |= {"DS_ACCELERATOR": "cpu"} if device.type == "cpu" else {}
    keys = [f"{name}={value}" for name, value in sizes.items()]
    keys += ["preset=hpm_teacher", "data.root=x", "train.output=y", "engine.precision=fp32", "engine.num_threads=1"]
    words = [sys.executable, "-c", ONE_PROCESS, json.dumps(keys), "6", *engines]
    done = subprocess.run(words, env=env, cwd=root, capture_output=True, text=True, timeout=100)
    lines = [line for line in done.stdout.splitlines() if line.startswith("@losses ")]
    found = json.loads(lines[-1].removeprefix("@losses ")) if lines else {}
    for name in engines:
        if name in found:
            record_property(name, difference(found[name], found["plain"]))
    assert done.returncode == 0 and len(found) == 1 + len(engines), done.stderr[-600:]
    assert all(difference(found[name], found["plain"]) < 1e-3 for name in engines)


def test_a_compiled_student_has_the_same_losses(device, settings, trainer, waves, record_property) -> None:
    if shutil.which("g++") is None and device.type == "cpu":
        pytest.skip("torch.compile needs a C++ compiler")
    clips = waves(settings("hpm_teacher"), settings("hpm_teacher").optim.batch_size)
    plain, compiled = (
        [trained.run(clips, now) for now in range(15, 20)]
        for trained in (trainer(settings("hpm_teacher", engine__compile=on), device, 40) for on in (False, True))
    )
    torch.compiler.reset()
    record_property("difference", difference(compiled, plain))
    assert difference(compiled, plain) < 1e-3

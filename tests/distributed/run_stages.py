"""Run by DeepSpeed's launcher: pretraining under each ZeRO stage in turn, in one start of the processes.

deepspeed --num_accelerators 2 run_stages.py ROOT OUT KEY=VALUE ...
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import hpm_video.train.pretrain as pretraining
from hpm_video.config import load_config
from hpm_video.train.engine import DeepSpeedEngine

root, out, keys = (
    Path(sys.argv[-1]) / "videos",
    Path(sys.argv[-1]) / "runs",
    json.loads((Path(sys.argv[-1]) / "keys.json").read_text()),
)
save = pretraining._save


def record(config, engine, step, state):
    """After the run's own saving: what the optimizer really uses, and whether the teachers are equal."""
    save(config, engine, step, state)
    assert isinstance(engine, DeepSpeedEngine)
    groups = [{k: g[k] for k in ("lr", "betas", "eps", "weight_decay")} for g in engine._raw_optimizer().param_groups]
    teacher = torch.cat([v.flatten() for v in step.teacher.state().values()])
    both = [torch.empty_like(teacher) for _ in range(engine.world_size)]
    dist.all_gather(both, teacher)
    facts = {
        "groups": groups,
        "teachers_equal": bool(torch.equal(both[0], both[1])),
        "type": type(engine._raw_optimizer()).__name__,
    }
    if engine.rank == 0:
        (Path(config.train.output) / f"facts-{state.step}.json").write_text(json.dumps(facts))


pretraining._save = record
for stage in range(4):
    if not pretraining.pretrain(
        load_config(None, [*keys, f"data.root={root}", f"train.output={out}/zero{stage}", f"engine.zero_stage={stage}"])
    ):
        sys.exit(1)

sys.stdout.flush()
os._exit(0)  # as the command line does: the threads of the process group abort the interpreter now and then

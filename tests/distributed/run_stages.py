"""Run by DeepSpeed's launcher: pretraining and fine-tuning under each ZeRO stage in turn, in one start of the processes.

deepspeed --num_accelerators 2 run_stages.py ROOT OUT KEY=VALUE ...
"""

import json
import os
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from hpm_video.config import load_config, load_finetune_config
from hpm_video.method.step import PretrainStep
from hpm_video.train.engines.deepspeed import DeepSpeedEngine
from hpm_video.train.finetune import finetune
from hpm_video.train.pretrain import pretrain
from hpm_video.train.run import Training

folder = Path(sys.argv[-1])
out, keys = folder / "runs", json.loads((folder / "keys.json").read_text())
save = Training._save


def record(self, engine, state):
    """After the run's own saving: what the optimizer really uses, and whether the networks beside are equal."""
    save(self, engine, state)
    assert isinstance(engine, DeepSpeedEngine)
    names = ("lr", "lr_scale", "betas", "eps", "weight_decay")
    groups = [{k: g[k] for k in names} for g in engine._raw_optimizer().param_groups]
    teacher = torch.cat([p.detach().flatten() for p in self.step.beside.parameters()])
    both = [torch.empty_like(teacher) for _ in range(engine.world_size)]
    dist.all_gather(both, teacher)
    facts = {
        "groups": groups,
        "teachers_equal": bool(torch.equal(both[0], both[1])),
        "type": type(engine._raw_optimizer()).__name__,
    }
    if engine.rank == 0:
        (Path(self.config.train.output) / f"facts-{state.step}.json").write_text(json.dumps(facts))


Training._save = record
for stage in range(4):
    given = [f"train.output={out}/zero{stage}", f"engine.zero_stage={stage}"]
    if not pretrain(load_config(None, [*keys["pretrain"], f"data.root={folder / 'videos'}", *given])):
        sys.exit(1)
    given[0] = f"train.output={out}/tuned-zero{stage}"
    if not finetune(load_finetune_config(None, [*keys["finetune"], f"data.root={folder / 'manifest'}", *given])):
        sys.exit(1)


plain_call = PretrainStep.__call__


def poisoned(self, engine, clip, rows, step, steps, batch=None):
    """One rank's losses of one step are not a number."""
    result, journey = plain_call(self, engine, clip, rows, step, steps, batch)
    return (result._replace(loss=result.loss * float("nan")) if (step, engine.rank) == (2, 1) else result), journey


def one_round_poisoned(self, engine, clip, rows, step, steps, batch=None):
    """The loss of one of the rounds of the second step is not a number, on one rank."""
    result, journey = plain_call(self, engine, clip, rows, step, steps, batch)
    return (result._replace(loss=result.loss * float("nan")) if (step, rows.start) == (1, 0) else result), journey


PretrainStep.__call__ = one_round_poisoned
for stage in range(4) if (folder / "videomae.pth").is_file() else ():
    given = [f"train.output={out}/round{stage}", f"engine.zero_stage={stage}", "train.steps=2"]
    if not pretrain(load_config(None, [*keys["pretrain"], f"data.root={folder / 'videos'}", *given])):
        sys.exit(1)

PretrainStep.__call__ = poisoned
given = [f"train.output={out}/poisoned", "engine.zero_stage=1", "train.measure_every_steps=100"]
if not pretrain(load_config(None, [*keys["pretrain"], f"data.root={folder / 'videos'}", *given])):
    sys.exit(1)
PretrainStep.__call__ = plain_call


def make_module(tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A module of another project: its parameters have these names, and it does nothing."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, nn.Parameter(tensor.clone()))
    return root


for stage in range(4) if (folder / "videomae.pth").is_file() else ():  # checkpoints as DeepSpeed itself writes them
    theirs = make_module(torch.load(folder / "videomae.pth"))
    settings = {"train_batch_size": 2, "zero_optimization": {"stage": stage}}
    engine = deepspeed.initialize(model=theirs, optimizer=torch.optim.AdamW(theirs.parameters()), config=settings)[0]
    engine.save_checkpoint(str(out / f"shards{stage}"), tag="global_step7")
    engine.destroy()

sys.stdout.flush()
os._exit(0)  # as the command line does: the threads of the process group abort the interpreter now and then

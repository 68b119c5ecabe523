"""Run as two processes: all that the tests of two processes look at, in one start of the processes.

RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python run_engines.py FOLDER    (and RANK=1)
"""

import json
import shutil
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from hpm_video.cli import script_main
from hpm_video.config import load_config, load_finetune_config
from hpm_video.costs.dry_run import dry_run
from hpm_video.costs.memory import MARGINS, estimate_need, free_device_memory
from hpm_video.errors import UserError
from hpm_video.evals.finetuned.multi_view_test import evaluate_run
from hpm_video.method.step import PretrainStep
from hpm_video.train import micro_batch
from hpm_video.train.finetune import finetune
from hpm_video.train.metrics import start_logging
from hpm_video.train.pretrain import pretrain
from hpm_video.train.saving import Saver

folder = Path(sys.argv[-1])
out, keys = folder / "runs", json.loads((folder / "keys.json").read_text())
start_logging()
save = Saver.save
ENGINES = {f"zero{stage}": ["engine.kind=deepspeed", f"engine.zero_stage={stage}"] for stage in range(4)}
TUNED = ("zero1", "zero3", "ddp", "fsdp")
ENGINES |= {"ddp": ["engine.kind=ddp"], "fsdp": ["engine.kind=fsdp"]}


def record(self, engine, state, beside):
    """After the run's own saving: what the optimizer really uses, and whether the networks beside are equal."""
    save(self, engine, state, beside)
    names = ("lr", "lr_scale", "betas", "eps", "weight_decay")
    optimizer = engine._raw_optimizer() if hasattr(engine, "_raw_optimizer") else engine.optimizer
    groups = [{k: g[k] for k in names} for g in optimizer.param_groups]
    teacher = torch.cat([p.detach().flatten() for p in beside.parameters()])
    both = [torch.empty_like(teacher) for _ in range(engine.world_size)]
    dist.all_gather(both, teacher)
    facts = {
        "groups": groups,
        "teachers_equal": bool(torch.equal(both[0], both[1])),
        "type": type(optimizer).__name__,
        "engine": type(engine).__name__,
    }
    if engine.rank == 0:
        (self.run / f"facts-{state.step}.json").write_text(json.dumps(facts))


Saver.save = record


def train_each(out: Path) -> None:
    """Pretrain and fine-tune with each engine, or resume what is there."""
    for name, engine in ENGINES.items():
        given = [f"train.output={out}/{name}", *engine]
        if not pretrain(load_config(None, [*keys["pretrain"], f"data.root={folder / 'videos'}", *given])):
            sys.exit(1)
        given[0] = f"train.output={out}/tuned-{name}"
        if name in TUNED and not finetune(
            load_finetune_config(None, [*keys["finetune"], f"data.root={folder / 'manifest'}", *given])
        ):
            sys.exit(1)


train_each(out)
rank = dist.get_rank()
if rank == 0:  # as if each run had been stopped half way
    for engine in ENGINES:
        tuned = [(f"tuned-{engine}", "step-00000004")] if engine in TUNED else []
        for name, last in ((engine, "step-00000006"), *tuned):
            shutil.copytree(out / name, folder / "resumed" / name)
            shutil.rmtree(folder / "resumed" / name / "checkpoints" / last)
dist.barrier()
train_each(folder / "resumed")

plain_call = PretrainStep.__call__


def poisoned(self, engine, clip, rows, step, steps, batch=None):
    """One rank's losses of one step are not a number."""
    result, journey = plain_call(self, engine, clip, rows, step, steps, batch)
    return (result._replace(loss=result.loss * float("nan")) if (step, engine.rank) == (2, 1) else result), journey


def one_round_poisoned(self, engine, clip, rows, step, steps, batch=None):
    """The loss of one of the rounds of the second step is not a number, on one rank."""
    result, journey = plain_call(self, engine, clip, rows, step, steps, batch)
    return (result._replace(loss=result.loss * float("nan")) if (step, rows.start) == (1, start) else result), journey


PretrainStep.__call__ = one_round_poisoned
LEFT_OUT = {"first": (0, ("zero0", "zero2", "zero3", "ddp", "fsdp")), "last": (4, ("ddp", "fsdp"))}
for round, (start, names) in LEFT_OUT.items():  # noqa: B007
    for name in names:
        given = [f"train.output={out}/{round}-{name}", *ENGINES[name], "train.steps=2"]
        if not pretrain(load_config(None, [*keys["pretrain"], f"data.root={folder / 'videos'}", *given])):
            sys.exit(1)

PretrainStep.__call__ = poisoned
for name in ("zero1", "ddp"):
    given = [f"train.output={out}/poisoned-{name}", *ENGINES[name], "train.measure_every_steps=100"]
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


for stage in range(4):  # checkpoints as DeepSpeed itself writes them
    theirs = make_module(torch.load(folder / "videomae.pth"))
    settings = {"train_batch_size": 2, "zero_optimization": {"stage": stage}}
    engine = deepspeed.initialize(model=theirs, optimizer=torch.optim.AdamW(theirs.parameters()), config=settings)[0]
    engine.save_checkpoint(str(out / f"shards{stage}"), tag="global_step7")
    engine.destroy()


# The test of a fine-tuned run: 7 videos, of which one process gets 4 and the other 3.
tuned = load_finetune_config(None, [*keys["exam"], f"data.root={folder / 'seven'}", f"train.output={out}/exam"])
if not finetune(tuned):
    sys.exit(1)
evaluate_run(out / "exam")

# Memory that differs from rank to rank: two clips of four fit here, all there.
config = load_config(None, [*keys["pretrain"], "data.root=x", "train.output=x"])
need = estimate_need(config, dry_run(config, 1, False), 2, on_cpu=True)
micro_batch.free_device_memory = lambda _: 1e12 if rank else 2 * need.of(2) / MARGINS["cpu"]  # two ranks share it
given = [f"train.output={out}/auto", "engine.micro_batch_size=auto", "train.steps=1", f"data.root={folder / 'videos'}"]
if not pretrain(load_config(None, [*keys["pretrain"], *given])):
    sys.exit(1)
micro_batch.free_device_memory = free_device_memory

# Ranks that disagree: what each of them says.
told = {}
for name, (on_rank_0, on_rank_1) in {
    "data": ([], [f"data.root={folder / 'fewer'}"]),
    "no data": ([], ["data.root=/nowhere"]),
    "step": ([f"train.output={out}/zero0"], []),
    "settings": ([], ["optim.base_lr=0.01"]),
    "refused by one": ([f"train.output={out}/zero0", "mask.ratio=0.5"], []),
}.items():
    given = [f"data.root={folder / 'videos'}", f"train.output={folder}/{name}", *(on_rank_1 if rank else on_rank_0)]
    text = "it went on"
    try:
        pretrain(load_config(None, [*keys["pretrain"], *given]))
    except UserError as error:
        text = str(error)
    both = [None, None]
    dist.all_gather_object(both, text)
    told[name] = both
if rank == 0:
    (folder / "told.json").write_text(json.dumps(told))

# The last: it ends the process, as the command line does, with exit status 1.
script_main("pretrain", None, ["data.root=/nowhere", f"train.output={folder}/none"])

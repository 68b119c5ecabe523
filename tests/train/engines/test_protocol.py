"""The engine protocol is whole: training asks an engine for nothing else, and all engines have all of it."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import hpm_video.train as train
from hpm_video.models.student import build_student
from hpm_video.train.engines import start
from hpm_video.train.engines.ddp import DdpEngine
from hpm_video.train.engines.deepspeed import DeepSpeedEngine
from hpm_video.train.engines.fsdp import FsdpEngine
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.engines.protocol import TrainingEngine
from hpm_video.types import Engine, UserError

CPU = torch.device("cpu")
MEMBERS = {
    name
    for part in (Engine, TrainingEngine)
    for name in [
        *part.__annotations__,
        *(n for n, v in vars(part).items() if (callable(v) or isinstance(v, property)) and not n.startswith("_")),
    ]
}


def test_all_engines_have_all_of_it(tiny_config) -> None:
    config = tiny_config()
    assert isinstance(PlainEngine(build_student(config), config, CPU), TrainingEngine)
    for other in (DeepSpeedEngine, DdpEngine, FsdpEngine):
        lacking = {name for name in MEMBERS if not hasattr(other, name)}
        assert lacking <= {*TrainingEngine.__annotations__, *Engine.__annotations__}  # those its first lines set
    assert {
        "forward",
        "backward",
        "rescale",
        "step",
        "sum_over_ranks",
        "weight_groups",
        "parts",
        "collect",
        "close",
    } <= (MEMBERS | {"forward"})


def test_training_asks_for_nothing_else() -> None:
    """Every attribute of something called `engine` in the loop, the graphs and the runs is one of the protocol."""
    asked: dict[str, set[str]] = {}
    for file in Path(train.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and _is_engine(node.value):
                asked.setdefault(node.attr, set()).add(file.name)
    assert {"backward", "step", "rescale", "sum_over_ranks", "split"} <= asked.keys()
    assert not asked.keys() - MEMBERS, {name: asked[name] for name in asked.keys() - MEMBERS}


def _is_engine(node: ast.expr) -> bool:
    """`engine`, `self.engine`, `loop.engine`; not `config.engine`, which is a section of the configuration."""
    if isinstance(node, ast.Name):
        return node.id == "engine"
    of_object = isinstance(node, ast.Attribute) and node.attr == "engine"
    return of_object and isinstance(node.value, ast.Name) and node.value.id in ("self", "loop")


@pytest.mark.parametrize("file", ["plain.py", "deepspeed.py", "ddp.py", "fsdp.py"])
def test_facts_of_an_engine_stay_in_its_file(file) -> None:
    """Outside of the folder of engines only the schema, the launchers and reports know an engine by name."""
    folder = Path(start.__file__).parent
    words = {
        "plain.py": ("PlainEngine",),
        "deepspeed.py": ("import deepspeed", "ds_numel", "DeepSpeedEngine"),
        "ddp.py": ("DistributedDataParallel", "DdpEngine", "no_sync"),
        "fsdp.py": ("fully_shard", "DTensor", "FsdpEngine"),
    }[file]
    for other in [*folder.parent.glob("*.py"), folder / "start.py", folder / "protocol.py"]:
        text = other.read_text()
        found = [word for word in words if word in text and other.name != "start.py"]
        assert not found, (other, found)


def test_a_new_engine_is_one_row(tiny_config, monkeypatch) -> None:
    made: list[Any] = []
    row = start.EngineRow(
        lambda *given: made.append(given) or PlainEngine(*given), lambda: None, lambda device, limit_s: None
    )
    monkeypatch.setitem(start.ENGINES, "plain", row)
    config = tiny_config(engine__kind="plain")
    engine = start.make_engine(build_student(config), config, start.prepare_process(config))
    assert isinstance(engine, TrainingEngine) and len(made) == 1


def test_an_engine_refuses_a_wrong_start(tiny_config, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="engine.kind: plain is one process, but 2 were started"):
        start.choose_engine(tiny_config(engine__kind="plain"))
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(UserError, match="engine.kind: deepspeed, but not started by a launcher"):
        start.choose_engine(tiny_config(engine__kind="deepspeed"))

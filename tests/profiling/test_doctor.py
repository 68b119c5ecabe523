"""What a user is told of a machine and a configuration, and which of it is a fault."""

import dataclasses

import pytest
import torch

from hpm_video import cli
from hpm_video.config import load_config, to_yaml
from hpm_video.profiling import cost_estimate as forecast
from hpm_video.profiling import doctor, environment
from hpm_video.profiling.cost_estimate import Pace
from hpm_video.profiling.diagnostics import format_count, format_duration, format_memory, lay_out
from hpm_video.profiling.environment import Check, Found
from hpm_video.profiling.subprocess import Answer
from hpm_video.profiling.throughput import time_loader, time_steps
from hpm_video.runs.machine import installed_version
from hpm_video.types import UserError

CHECK = Check("numpy", "numpy", environment.try_import, {"name": "numpy"}, None, "sums")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One library that works; trials in this process, and short."""

    def run_here(function, argument):
        return Answer(function(argument))

    monkeypatch.setattr(doctor, "run_checks", lambda config, num_ranks: iter([Found(CHECK, "imports", None)]))
    monkeypatch.setattr(forecast, "_try", run_here)
    monkeypatch.setattr(forecast, "STEP_LIMIT_S", 0.0)
    monkeypatch.setattr(forecast, "LOADER_LIMIT_S", 0.05)


@pytest.fixture()
def told(tmp_path, tiny_config, capsys):
    """told("--ranks", "2", data__root=...): (status, what was said) of `hpm-video doctor` with a tiny configuration."""

    def tell(*words: str, **overrides) -> tuple[int, str]:
        defaults = {"train__output": str(tmp_path / "run"), "data__root": "absent", "data__num_workers": 0}
        file = tmp_path / "config.yaml"
        file.write_text(to_yaml(tiny_config(**(defaults | overrides))).replace("  root: absent\n", ""))
        status = cli.main(["doctor", "--config", str(file), *words])
        return status, capsys.readouterr().out

    return tell


def test_bare(capsys) -> None:
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "ok    numpy " in said and "all that is needed works" in said and "Model" not in said


def test_faults_are_listed_and_what_nobody_needs_is_none(monkeypatch, capsys) -> None:
    absent = CHECK._replace(name="no_such", library="no_such_library")
    found = [Found(CHECK._replace(needed="training"), "", "ended by SIGSEGV"), Found(absent, "", "ImportError: x")]
    monkeypatch.setattr(doctor, "run_checks", lambda config, num_ranks: iter(found))
    assert cli.main(["doctor"]) == 1
    head, result = capsys.readouterr().out.split("Result\n")
    assert "no    no_such               not installed (no_such_library) (not needed here; for: sums)" in head
    assert f"- numpy {installed_version('numpy')}: ended by SIGSEGV; needed for training\n" in result
    assert result.count("\n") == 1


def test_a_configuration_with_data(told, labelled_set) -> None:
    status, said = told(data__root=str(labelled_set), train__epochs=3, train__steps=None)
    assert status == 0, said
    for words in (
        "train        24 videos",
        "validation   12 videos",
        "clip of 32 tokens (2 x 4 x 4), 12 of 16 tubes masked",
        "teacher: encoder",
        "x those of mask.mode=random; bytes in fp32, 8 clips a pass",
        "activations of 8 clips, at the peak",
        "clips/s (1 step of 8 clips)",
        "in the training process",
        "the limit       ",
        "(24 clips)",
        "(9 steps)",
        "all that this configuration needs works",
    ):
        assert words in said


def test_without_data_an_amount_is_told(told) -> None:
    status, said = told()
    assert status == 0 and "data.root is not given" in said and "100,000 clips" in said and "loader  " not in said


def test_each_fault_is_told_and_the_rest_goes_on(told, monkeypatch) -> None:
    def crash(function, argument):
        return Answer({}, "ended by SIGKILL (out of memory?)")

    monkeypatch.setattr(forecast, "_try", crash)
    status, said = told(data__root="/nowhere", objective__target="dino")
    result = said.split("Result\n")[1]
    assert status == 1 and "teacher: encoder" in said
    assert "- data.root: /nowhere does not exist" in result
    assert "- a training step: ended by SIGKILL (out of memory?)" in result


def test_a_wrong_configuration_is_a_fault_after_the_machine(capsys, monkeypatch) -> None:
    assert cli.main(["doctor", "mask.ratoi=0.5"]) == 1
    said = capsys.readouterr().out
    assert "ok    numpy" in said and "unknown key 'mask.ratoi'" in said.split("Result\n")[1]
    monkeypatch.setattr(forecast, "dry_run", lambda *_: 1 / 0)
    assert cli.main(["doctor", "model.size=ti"]) == 1
    assert "- model: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_too_little_memory_says_what_would_fit(told, monkeypatch) -> None:
    def free(mebibytes):
        monkeypatch.setattr(forecast, "free_device_memory", lambda: mebibytes * 2**20)
        return told(optim__batch_size=256, engine__micro_batch_size=None)

    status, said = free(6)
    assert status == 1 and "or less, or model.checkpointing=true" in said
    fits = int(said.split("expected engine.micro_batch_size=")[1].split()[0])
    assert 1 < fits < 128 and f"1 step of {min(fits, 64)} clip" in said
    assert told(optim__batch_size=256, engine__micro_batch_size=fits)[0] == 0
    status, said = free(0.1)
    assert status == 1 and "expected a smaller model or clip" in said and "not measured" in said


def test_auto_is_what_training_would_choose(told, monkeypatch) -> None:
    monkeypatch.setattr(forecast, "free_device_memory", lambda: 20 * 2**20)
    status, said = told(optim__batch_size=256)
    clips = int(said.split("engine.micro_batch_size=auto: ")[1].split()[0])
    assert status == 0 and 1 < clips < 128 and 256 % clips == 0
    assert f"activations of {clips} clips" in said
    monkeypatch.setattr(forecast, "free_device_memory", lambda: 2**20)
    status, said = told(optim__batch_size=256)
    assert status == 1 and "memory: training would refuse, as one clip a pass takes " in said


def test_a_preset_can_be_looked_at(capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        doctor, "report_configuration", lambda found, config, *_: found.line(f"depth {config.model.depth}")
    )
    assert cli.main(["doctor", "preset=videomae", "preset=tiny"]) == 0
    assert "depth 4" in capsys.readouterr().out


def test_a_plan_for_other_machines_is_no_fault_of_this_one(told, monkeypatch) -> None:
    monkeypatch.setattr(forecast, "free_device_memory", lambda: 6 * 2**20)
    status, said = told("--ranks", "2", engine__kind="auto", optim__batch_size=256)
    assert status == int(torch.cuda.is_available())
    assert "Memory of each of 2 ranks" in said and "DDP, 2 ranks" in said


def test_disk_and_shared_memory(told, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 1000, "total": 1000})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    result = told(data__num_workers=2)[1].split("Result\n")[1]
    assert "- train.output: checkpoints take" in result
    assert "- /dev/shm: " in result or not doctor.Path("/dev/shm").is_dir()


def test_trials(tmp_path, tiny_config, labelled_set, monkeypatch) -> None:
    config = tiny_config(data__root=str(labelled_set), data__num_workers=1, data__repeats=2)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    argument = {"config": str(tmp_path / "config.yaml"), "num_clips": 3, "limit_s": 600.0}
    steps = time_steps(argument)
    assert steps["num_clips"] == 3 and len(steps["seconds"]) == 19 and min(steps["seconds"]) > 0
    assert len(time_steps(argument | {"limit_s": 0.0})["seconds"]) == 1
    loader = time_loader(argument | {"limit_s": 0.2})
    assert loader["num_clips"] % 8 == 0 and loader["clips_per_s"] > 0 and loader["bad"] == []
    broken = dataclasses.replace(config, optim=dataclasses.replace(config.optim, eps=0.0, weight_decay=1e38))
    (tmp_path / "config.yaml").write_text(to_yaml(broken))
    with pytest.raises(UserError, match="the loss of a random clip is nan"):
        time_steps(argument)


def test_pace_by_hand() -> None:
    assert Pace(2.0, 6.0).of(3, reads_beside=True) == 6.0 and Pace(6.0, 2.0).of(1, reads_beside=True) == 2.0
    assert Pace(2.0, 6.0).of(2, reads_beside=False) == pytest.approx(3.0)
    assert Pace(2.0, None).of(2, reads_beside=True) == 4.0 and Pace(None, 2.0).of(2, reads_beside=True) is None


def test_words() -> None:
    assert lay_out([["a", "1"], ["bcd", "22", "x"]]) == "  a     1\n  bcd   22   x\n"
    assert lay_out([["a", "1"], ["bcd", "22"]], numbers=True) == "  a      1\n  bcd   22\n"
    assert [format_memory(n) for n in (2**20, 2**30)] == ["1.0 MiB", "1.00 GiB"]
    assert [format_duration(n) for n in (61, 7200, 96 * 3600)] == ["0:01:01 h:mm:ss", "2.0 hours", "4.0 days"]
    assert [format_count(n, w) for n, w in ((1, "clip"), (2000, "clip"), (2, "process"))] == [
        *("1 clip", "2,000 clips", "2 processes")
    ]


def test_what_closes_the_gap_of_the_loader_is_told_with_its_amount(tiny_config, monkeypatch) -> None:
    config = tiny_config(data__num_workers=2)
    pace = forecast.Pace(step=10.0, loader=4.0, repeated=9.0)
    assert pace.reading_is_limit and not forecast.Pace(4.0, 10.0).reading_is_limit
    assert not forecast.Pace(None, 10.0).reading_is_limit and not forecast.Pace(1.0, None).reading_is_limit
    workers, repeats, copy, shards = forecast.close_gap(config, pace, num_cores=8)
    assert workers == "data.num_workers=8: 4.0 times as fast (if 8 cores of the rank are free), closes the gap"
    assert repeats == "data.repeats=4: 2.2 times as fast (measured now), 90% of what the steps take"
    assert "hpm-video prepare" in copy and "closes the gap" in copy and "hpm-video pack" in shards
    ways = forecast.close_gap(
        config, pace._replace(repeated=None), num_cores=2
    )  # no core is free, nothing was measured
    assert [way.split()[0] for way in ways] == ["hpm-video", "many"]


def test_a_loader_that_is_the_limit_is_measured_with_repeats_too(told, monkeypatch, labelled_set) -> None:
    asked = []

    def answer(function, argument) -> Answer:
        if function is forecast.time_steps:
            return Answer({"seconds": [0.1], "num_clips": 8, "memory_gib": 0.0, "note": ""})
        asked.append(load_config(argument["config"]).data.repeats)
        return Answer({"clips_per_s": 20.0 * asked[-1], "num_clips": 9, "bad": []})

    monkeypatch.setattr(forecast, "_try", answer)
    status, said = told(data__root=str(labelled_set))
    assert status == 0 and asked == [1, 4], said
    assert "the limit       the loader: 25% of what the steps take" in said
    assert "data.repeats=4: 4.0 times as fast (measured now), closes the gap" in said

"""Trackers: what they are told, one that fails, and the adapters against libraries that only write down what is called."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hpm_video.config.trackers import TRACKERS, check_installed, list_trackers
from hpm_video.errors import UserError
from hpm_video.train.metrics import MetricLog
from hpm_video.train.trackers import Tracker, TrackerGroup, attached, draw_difficulty, open_trackers


class Notes:
    """A tracker, or a stranger's object, that notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name: str):
        def note(*given, **named):
            self.calls.append((name, *given, named))
            return self

        if name.startswith("__"):
            raise AttributeError(name)
        return note


class Broken:
    def log(self, step, values):
        raise ConnectionError("no route\nto host")

    def close(self):
        raise AssertionError("closed after it was dropped")


def test_one_that_fails_is_reported_once_and_dropped(tmp_path, caplog) -> None:
    caplog.set_level(logging.WARNING, "hpm_video")
    rows, good = [], Notes()
    log_to = MetricLog(tmp_path, 0, TrackerGroup([Broken(), lambda step, values: rows.append(step), good], (1, 1, 2)))
    for step in (1, 2):
        log_to.write(step, {"loss": 0.5})
    log_to.write_difficulty(2, [[0.0, 1.0], [3.0, 2.0]])
    log_to.close()
    assert rows == [1, 2] and [call[0] for call in good.calls] == ["log", "log", "log_image", "close"]
    assert good.calls[0][1:3] == (1, {"loss": 0.5}) and isinstance(good, Tracker) and not isinstance(rows, Tracker)
    assert caplog.messages == [
        "tracker Broken failed and is dropped; the run continues: ConnectionError: no route to host"
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_maps_of_difficulty() -> None:
    image = draw_difficulty(np.array([[0.0, 1.0, 0.5, 0.0], [5.0, 5.0, 5.0, 5.0]]), (1, 2, 2), cell_px=1)
    assert image.shape == (6, 3, 3) and image.dtype == np.uint8
    assert image[:, :, 0].tolist() == [[0, 255, 0], [128, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_names_are_checked_before_a_run_starts(monkeypatch) -> None:
    assert list_trackers(None) == [] and list_trackers("wandb, mlflow,wandb") == ["wandb", "mlflow"]
    with pytest.raises(UserError, match="train.trackers: 'x'; expected names of mlflow, trackio, wandb"):
        list_trackers("x")
    monkeypatch.setattr("hpm_video.config.trackers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed.*Try: pip install 'hpm-video\[trackers\]'"):
        check_installed("mlflow")
    check_installed(None)


def test_the_adapters(tiny_config, tmp_path, monkeypatch, caplog) -> None:
    """Each is told of the run, the values and, if it takes pictures, the difficulty. One that cannot start is left out."""
    notes = {name: Notes() for name in TRACKERS}
    monkeypatch.setitem(sys.modules, "wandb", _module(init=notes["wandb"].init, Image=np.shape))
    monkeypatch.setitem(sys.modules, "trackio", _module(init=notes["trackio"].init))
    client = notes["mlflow"]
    client.__dict__["get_experiment_by_name"] = lambda name: None
    client.__dict__["create_run"] = lambda *_, **named: SimpleNamespace(info=SimpleNamespace(run_id=named["run_name"]))
    monkeypatch.setitem(sys.modules, "mlflow", _module(MlflowClient=lambda: client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", _module(Metric=lambda *given: given))
    own: list[int] = []
    run, config = tmp_path / "mine", tiny_config(train__trackers="mlflow,trackio,wandb")
    with attached([lambda step, values: own.append(step)]):
        group = open_trackers(config, run)
    group.log(3, {"held_out/knn": 0.25, "grad_norm": float("nan")})
    group.log_difficulty(3, [[0.5] * 16])
    group.close()
    assert own == [3] and not open_trackers(tiny_config(), run).trackers
    called = {name: [call[0] for call in note.calls] for name, note in notes.items()}
    assert called["wandb"] == ["init", "log", "log", "finish"] and called["trackio"] == ["init", "log", "finish"]
    assert called["mlflow"] == ["create_experiment", "log_dict", "log_batch", "log_image", "set_terminated"]
    assert (
        notes["wandb"].calls[0][-1]["name"] == "mine" and notes["wandb"].calls[0][-1]["config"]["mask"]["ratio"] == 0.75
    )
    assert notes["wandb"].calls[2][1] == {"difficulty": (40, 40, 3)} and notes["wandb"].calls[2][-1] == {"step": 3}
    assert notes["trackio"].calls[1][1] == {"held_out/knn": 0.25}
    (metric, _) = client.calls[2][2]
    assert (metric[0], metric[1], metric[3]) == ("held_out/knn", 0.25, 3)
    caplog.set_level(logging.WARNING, "hpm_video")
    monkeypatch.setitem(sys.modules, "wandb", _module())
    assert len(open_trackers(config, run).trackers) == 2 and "tracker wandb failed and is dropped" in caplog.text


def _module(**names) -> ModuleType:
    module = ModuleType("stranger")
    module.__dict__.update(names)
    return module


@pytest.mark.slow
def test_the_libraries_themselves(tiny_config, tmp_path, monkeypatch) -> None:
    """The adapters against what is installed, offline; skipped without it."""
    for name, value in {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than mlflow-skinny
    monkeypatch.chdir(tmp_path)
    run = Path("mine")
    run.mkdir()
    found = [name for name in TRACKERS if _is_here(name)]
    if not found:
        pytest.skip("needs a library of a tracker: pip install 'hpm-video[trackers]'")
    group = open_trackers(tiny_config(train__trackers=",".join(found)), run)
    for step in (1, 2):
        group.log(step, {"loss": 0.5, "held_out/knn": 0.25})
    group.log_difficulty(2, [[0.5] * 16])
    assert len(group.trackers) == len(found)
    group.close()
    assert len(group.trackers) == len(found)


def _is_here(name: str) -> bool:
    try:
        check_installed(name)
    except UserError:
        return False
    return True

"""What is tried out, and what is needed."""

import importlib
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hpm_video.config import load_config
from hpm_video.data.readers.read import is_installed
from hpm_video.profiling.environment import free_memory, list_checks, machine_rows, try_import, try_reader


@pytest.mark.parametrize("reader", ["pyav", "torchcodec", "decord"])
def test_a_reader_is_really_used(reader, monkeypatch) -> None:
    if not is_installed(reader):
        pytest.skip(f"{reader} is not installed or does not load")
    assert "read H.264" in try_reader({"reader": reader})["note"]
    module = importlib.import_module(f"hpm_video.data.readers.{reader}")
    read = module.read
    monkeypatch.setattr(module, "read", lambda file, choose: read(file, lambda count: np.array([0, 6, count - 1])))
    with pytest.raises(ValueError, match=r"gives other frames than were written \(off by 1. of 255\)"):
        try_reader({"reader": reader})


def needs(config, num_ranks=1) -> dict[str, str | None]:
    with tempfile.TemporaryDirectory() as folder:
        checks = list_checks(config, num_ranks, Path(folder))
        for check in checks:
            if "config" in check.argument:
                assert load_config(check.argument["config"]).engine.precision in check.name
    return {check.name: check.needed for check in checks if check.needed}


def test_what_is_needed_follows_from_the_configuration(tiny_config) -> None:
    always = {"pyav": "reading videos", "training, fp32": "training"}
    assert needs(None) == always and needs(tiny_config()) == always
    assert needs(tiny_config(data__reader="decord")) == always | {"decord": "data.reader=decord"}
    assert needs(tiny_config(engine__precision="bf16")) == always | {"training, bf16": "engine.precision"}
    assert needs(None, 4).keys() == always.keys()
    assert needs(tiny_config(), 4).keys() == always.keys()  # engine.kind=plain
    assert needs(tiny_config(engine__kind="auto"), 4).keys() == always.keys()
    assert (
        needs(tiny_config(engine__kind="auto", engine__zero_stage=1), 4)["deepspeed"]
        == "4 processes, engine.kind=deepspeed"
    )


def test_an_import_that_fails_raises() -> None:
    assert try_import({"name": "json"}) == {"note": "imports"}
    with pytest.raises(ImportError):
        try_import({"name": "no_such_library"})


def test_the_machine_is_described() -> None:
    rows = dict(machine_rows())
    assert {"hpm-video", "torch", "processor", "memory"} <= rows.keys() and "cores" in rows["processor"]
    assert 2**20 < free_memory() < 2**50

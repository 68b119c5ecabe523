"""Whatever a function does in its own process, this one gets an answer in words."""

import importlib
import os
from contextlib import ExitStack

import pytest

from hpm_video.files import is_alive
from hpm_video.profiling.subprocess import Subprocess

ODD = """
import os, signal, subprocess, sys, time
from hpm_video.errors import UserError

def add(argument):
    print("noise"); os.system("echo more noise")
    return {"sum": argument["a"] + argument["b"]}

def refuse(argument):
    raise UserError("data.root: x does not exist")

def fail(argument):
    raise KeyError("name\\nand more")

def crash(argument):
    sys.stderr.write("libfoo is broken\\n"); sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)

def leave(argument):
    os._exit(7)

def hang(argument):
    child = subprocess.Popen(["sleep", "100"])
    open(argument["file"], "w").write(str(child.pid))
    time.sleep(100)
"""


@pytest.fixture()
def odd(tmp_path, monkeypatch):
    (tmp_path / "odd_functions.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)  # where python -m looks first
    return importlib.import_module("odd_functions")


def test_answers_and_faults(odd, tmp_path, wait_for) -> None:
    child = tmp_path / "child"
    with ExitStack() as stack:
        first = stack.enter_context(Subprocess(odd.hang, {"file": str(child)}, 20.0))
        names = ("add", "refuse", "fail", "crash", "leave")
        others = {
            name: stack.enter_context(Subprocess(getattr(odd, name), {"a": 2, "b": 3.5}, 60.0)).answer()
            for name in names
        }
        assert others["add"] == ({"sum": 5.5}, None)
        assert others["refuse"] == ({}, "data.root: x does not exist")
        assert others["fail"] == ({}, r"KeyError: 'name\nand more'")
        assert others["crash"] == ({}, "ended by SIGSEGV: libfoo is broken")
        assert others["leave"] == ({}, "ended with exit status 7")
        assert others.keys() == set(names)
        first.until = 0.0
        wait_for(lambda: child.exists() and child.read_text())
        assert first.answer() == ({}, "no answer within 20 s")
    with pytest.raises(ProcessLookupError):
        os.kill(first.process.pid, 0)
    wait_for(lambda: not is_alive(int(child.read_text())), 20)  # it would end by itself only later

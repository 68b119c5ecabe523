"""The GPU script in its small form on the CPU: every stage, and what each leaves if another fails, hangs, crashes or lacks a
package."""

import argparse
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpm_video.files import is_alive

ROOT = Path(__file__).parents[2]
HOME = ROOT / "benchmarks" / "gpu"
STAGES = ("truth", "speed", "profile", "feed", "arena")
FAULTS = '''"""Loaded by every Python process of the test: what goes wrong in it."""
import os, signal, subprocess, sys, time
from pathlib import Path
HERE = Path(__file__).parent
class Faults:
    def find_spec(self, name, path=None, target=None):
        if name in ("av", "transformers", "deepspeed"):
            raise ImportError("no wheel for this Python")
        if name == "pebble":
            os._exit(3)
        if name == "stage_truth":
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "stage_profile":
            raise ValueError("it is broken\\nand more")
        if name == "stage_speed":
            child = subprocess.Popen(["sleep", "1000"])
            (HERE / "pids").write_text(f"{os.getpid()} {child.pid}")
            time.sleep(1000)
sys.meta_path.insert(0, Faults())
'''


pytestmark = pytest.mark.usefixtures("gpu_scripts_on_path")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(HOME / f"{name}.py"))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("[a-z]*.json")}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[int, Path]:
    """(exit code, folder) of the whole script in its small form."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    words = [sys.executable, str(HOME / "run.py"), f"--out={out}", "--device=cpu", "--tiny", "--minutes=60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1500)
    assert "machine: no GPU" in done.stdout, done.stderr
    return done.returncode, out


def test_every_stage_runs_and_leaves_its_results(small) -> None:
    code, out = small
    found = read(out)
    log = (out / "run.log").read_text(errors="replace")
    assert code == 0, log[-3000:]
    assert tuple(sorted(found)) == tuple(sorted(STAGES)) and "feed: done after" in log
    assert all(found[stage]["status"] == "done" for stage in STAGES[:4]), {s: found[s]["reason"] for s in found}
    assert found["arena"]["status"] in ("done", "skipped") and (found["arena"]["reason"] or found["arena"]["results"])
    for content in found.values():
        assert content["device"] == "cpu" and content["tiny"] and content["seconds"] > 0
        assert content["machine"]["cores"] > 0 and content["machine"]["card"] is None and content["machine"]["torch"]
    files = list(out.rglob("*"))
    assert len(files) <= 8 and all(file.parent == out and file.stat().st_size < 2**24 for file in files)


def test_small_truth_speed_profile_and_feed(small) -> None:
    truth, speed, profile, feed = (read(small[1])[stage]["results"] for stage in STAGES[:4])
    names = {test["name"] for test in truth["tests"]}
    assert {"test_a_resume_is_bitwise", "test_masks_and_units_are_those_of_the_cpu"} <= names == set(truth["planned"])
    assert truth["counts"]["failed"] == 0 < truth["counts"]["passed"]
    assert next(t for t in truth["tests"] if "ranking" in t["name"])["numbers"]["gradient"] < 1e-5
    assert [(row["name"], row["mode"]) for row in speed["measured"]][1:] == [("hpm", "eager"), ("hpm", "graphs")]
    for row in speed["measured"]:
        if row["fault"] is None:  # without transformers the peer has one
            share = row["flops_per_clip"] * row["clips_per_s"]["median"] / speed["product_flops"]
            assert row["mfu_of_product"] == pytest.approx(share) and row["mfu_of_peak"] is None
            assert row["clips_per_s"]["high"] == pytest.approx(1 / min(row["seconds_per_clip"]))
    step = profile["step"]
    assert 0 <= step["idle_share"] < 1 and 0 < len(step["kernels"]) <= 40 and step["num_kernels"] > 40
    assert sum(kernel["share"] for kernel in step["kernels"]) <= 1.0001
    assert {"encoder, forward", "AdamW"} <= {row["stage"] for row in profile["stages"]}
    assert profile["copies"]["device"] > 0 and feed["loader_repeats_1"]["1"] > 0
    assert feed["training"]["repeats 1"]["clips_per_s"] > 0 and 0 <= feed["training"]["repeats 1"]["wait_share"] <= 1


def test_no_page_of_a_gpu_comes_from_a_cpu(small, tmp_path, capsys) -> None:
    main = script("report")["main"]
    before = sorted(file.name for file in (ROOT / "benchmarks" / "results").iterdir())
    assert main([str(small[1])]) == 1 and "not of a GPU" in capsys.readouterr().err
    for _ in range(2):  # its own page is replaced
        assert main([str(small[1]), f"--out={tmp_path / 'page.md'}"]) == 0
    assert sorted(file.name for file in (ROOT / "benchmarks" / "results").iterdir()) == before
    page = (tmp_path / "page.md").read_text()
    assert "**The small form: its figures mean nothing.**" in page and "| ViT-TI | hpm | eager |" in page
    assert "test_a_resume_is_bitwise | passed" in page and "aten::" in page and (tmp_path / "page.json").is_file()
    (tmp_path / "own.md").write_text("mine")
    assert main([str(small[1]), f"--out={tmp_path / 'own.md'}"]) == 1 and (tmp_path / "own.md").read_text() == "mine"


@pytest.fixture()
def faulty(tmp_path, monkeypatch) -> Path:
    """A folder on the path of all processes, whose sitecustomize makes them fail."""
    folder = tmp_path / "faults"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTS)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return folder


@pytest.mark.slow
def test_a_stage_survives_what_happens_to_the_others(faulty, tmp_path, monkeypatch, capsys, wait_for) -> None:
    """truth crashes, speed hangs, profile raises, feed lacks a package; a helpful package ends the process at its import."""
    run = script("run")
    limits = {stage: 10.0 if stage == "speed" else 300.0 for stage in STAGES}
    monkeypatch.setitem(run["run_all"].__globals__, "LIMITS_S", limits)
    monkeypatch.setitem(run["run_all"].__globals__, "EXAMINE_S", 300.0)
    out = tmp_path / "out"
    given = argparse.Namespace(out=out, minutes=8.0, stages=list(STAGES), device="cpu", tiny=True)
    assert run["run_all"](given) == 1
    found, said = read(out), capsys.readouterr().out
    how = {stage: (found[stage]["status"], found[stage]["reason"]) for stage in STAGES}
    assert how["truth"] == ("failed", "its process ended early with signal SIGSEGV (see run.log)")
    assert how["speed"] == ("killed", "reached its limit of 10 s; the results up to then are kept")
    assert how["profile"] == ("failed", "ValueError: it is broken")
    assert how["feed"][0] == "skipped" and "av (ImportError: no wheel for this Python)" in how["feed"][1]
    assert how["arena"][0] in ("skipped", "done")
    assert "cannot import av: ImportError: no wheel for this Python; skipped: feed" in said
    assert found["arena"]["missing"]["pebble"]["error"] == "its import ends the process (status 3)"
    assert "videos are not prepared" in found["arena"]["missing"]["pebble"]["consequence"]
    assert "it is broken" in (out / "run.log").read_text()  # with its traceback
    pids = [int(number) for number in (faulty / "pids").read_text().split()]
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_what_was_done_is_there_if_the_script_is_killed(faulty, tmp_path, wait_for) -> None:
    out = tmp_path / "out"
    words = [
        sys.executable,
        str(HOME / "run.py"),
        f"--out={out}",
        "--device=cpu",
        "--tiny",
        "--stages",
        "truth",
        "speed",
    ]
    with subprocess.Popen([*words, "--minutes=200"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: (faulty / "pids").is_file() and (faulty / "pids").read_text())
        process.kill()
    found = read(out)
    worker, child = map(int, (faulty / "pids").read_text().split())
    assert found["truth"]["status"] == "failed" and found["speed"]["status"] == "running"
    wait_for(lambda: not is_alive(worker))
    os.kill(child, signal.SIGKILL)


STAGE = """
import sys, time
sys.path[:0] = [{home!r}, {root!r}]
from pathlib import Path
from context import Context
context = Context(Path({file!r}), "cpu", True, time.time() + 1000)
context.put(rate=float("nan"), done=[1, 2])
time.sleep(1000)
"""


@pytest.mark.parametrize("how", ["limit", "signal"])
def test_a_kill_leaves_what_was_measured(how, tmp_path) -> None:
    run = script("run")
    file, log = tmp_path / "speed.json", tmp_path / "run.log"
    file.write_text(json.dumps({"status": "running", "reason": "", "results": {}}))
    words = [sys.executable, "-c", STAGE.format(home=str(HOME), root=str(ROOT), file=str(file))]
    if how == "limit":
        ended = run["supervise"](words, file, log, 6.0, dict(os.environ))
    else:
        before = signal.signal(signal.SIGALRM, run["stop"])
        signal.setitimer(signal.ITIMER_REAL, 6.0)
        with pytest.raises(SystemExit):
            run["supervise"](words, file, log, 1000.0, dict(os.environ))
        signal.signal(signal.SIGALRM, before)
        ended = json.loads(file.read_text())
        assert ended["reason"] == "benchmarks/gpu/run.py was stopped"
    assert ended["status"] == "killed" and ended["results"] == {"rate": None, "done": [1, 2]}


def test_a_folder_of_others_is_left_alone(tmp_path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert script("run")["main"]([f"--out={tmp_path}", "--device=cpu", "--tiny"]) == 1
    assert "expected a folder that is new, empty" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1

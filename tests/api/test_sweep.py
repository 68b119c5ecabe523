"""Sweeps: values of keys, one run for each combination, scores and a report; nothing is trained before all is checked."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpm_video.api import sweep
from hpm_video.api.sweep import plan_sweep, split_values
from hpm_video.cli import main
from hpm_video.errors import UserError


@pytest.fixture
def keys(tiny_keys) -> list[str]:
    return [f"{name}={value}".replace(" ", "") for name, value in tiny_keys.items()]


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """Commands run in this process, as to be quick; what was started."""
    words: list[list[str]] = []

    def start(command: list[str]) -> int:
        assert command[:3] == [sys.executable, "-m", "hpm_video"]
        words.append(command[3:])
        return main(command[3:])

    monkeypatch.setattr(sweep, "start_command", start)
    return words


def test_values_are_split_at_commas_that_are_in_no_bracket_or_quote() -> None:
    assert split_values("0.75,0.9") == ["0.75", "0.9"] and split_values("x") == ["x"]
    assert split_values("[16,16],[32,32]") == ["[16,16]", "[32,32]"]
    assert split_values("'a,b',c") == ["'a,b'", "c"] and split_values("{a:[1,2]}") == ["{a:[1,2]}"]


def test_each_combination_is_a_run_with_a_name_that_says_it() -> None:
    found = plan_sweep(["data.root=x", "mask.ratio=0.5,0.9", "data.frame_size_px=[16,16],[32,32]"])
    assert found.varied == ["mask.ratio", "data.frame_size_px"] and list(found.runs) == [
        "ratio-0.5_frame_size_px-16-16", "ratio-0.5_frame_size_px-32-32",
        "ratio-0.9_frame_size_px-16-16", "ratio-0.9_frame_size_px-32-32",
    ]  # fmt: skip
    assert found.runs["ratio-0.9_frame_size_px-16-16"] == [
        "data.root=x",
        "mask.ratio=0.9",
        "data.frame_size_px=[16,16]",
    ]
    alike = plan_sweep(["data.root=a/b,a-b", "images.root=../c,null"])
    assert len(set(alike.runs)) == 4 and all("/" not in name and name[0] != "." for name in alike.runs)
    assert all("data.root" in name and "images.root" in name for name in alike.runs)
    with pytest.raises(UserError, match="no key has several values; expected one such as"):
        plan_sweep(["data.root=x", "data.frame_size_px=[16,16]"])


def test_weights_settle_what_they_settle_in_training(place, monkeypatch) -> None:
    """The keys of a sweep are checked with the sizes of its weights, and not with the defaults of model.*."""
    started: list[list[str]] = []
    monkeypatch.setattr(sweep, "start_command", lambda command: started.append(command) or 7)
    clips = ["data.root=videos", "data.num_frames=4", "data.frame_size_px=[16,16]", "mask.ratio=0.5,0.75"]
    words = [*clips, "init.weights=runs/mine", "optim.batch_size=2"]
    with pytest.raises(UserError, match="ratio-0.5: exit status 7"):
        list(sweep.run_sweep(words, Path("out/a"), None, None, None, "steps"))
    assert len(started) == 1 and "init.weights=runs/mine" in started[0]
    with pytest.raises(UserError, match="mask.unit"):
        list(sweep.run_sweep([*words, "mask.unit=cube"], Path("out/b"), None, None, None, "steps"))
    assert len(started) == 1 and not Path("out/b").exists()


def test_runs_scores_and_a_report_and_the_same_again_trains_nothing(place, keys, started, capsys) -> None:
    words = ["sweep", *keys, "data.root=videos", "train.steps=1", "mask.ratio=0.5,0.75", "train.seed=0,1"]
    assert main([*words, "--out", "out/sweep", "--score", "labelled"]) == 0
    names = [f"ratio-{ratio}_seed-{seed}" for ratio in ("0.5", "0.75") for seed in (0, 1)]
    assert {file.name for file in Path("out/sweep").iterdir()} >= {*names, "report"}
    assert [words[0] for words in started] == ["pretrain", "score"] * 4
    report = Path("out/sweep/report/report.md").read_text()
    assert "4 runs of 2 variants" in report and "ratio=0.75" in report and "knn" in report.lower(), report
    assert capsys.readouterr().out.endswith("Next: open out/sweep/report/report.html\n")
    assert main([*words, "--out", "out/sweep", "--score", "labelled"]) == 0
    assert [words[0] for words in started[8:]] == ["pretrain"] * 4 and "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("mask.ratio=0.5,2", "mask.ratio: 2"),
        ("mask.ration=0.5,0.75", "unknown key 'mask.ration'.*did you mean 'mask.ratio'"),
        ("train.output=a,b", "train.output: given; expected --out"),
    ],
)
def test_what_is_wrong_is_said_before_a_run_starts(place, keys, started, capsys, word, text) -> None:
    assert main(["sweep", *keys, "data.root=videos", "mask.mode=random,hpm", word, "--out", "out/new"]) == 1
    assert re.search(text, capsys.readouterr().err) and not started and not Path("out/new").exists()


def test_a_folder_of_somebody_elses_is_not_written_to(place, keys, started, capsys) -> None:
    Path("out/mine").mkdir()
    Path("out/mine/notes.txt").write_text("mine")
    assert main(["sweep", *keys, "data.root=videos", "mask.ratio=0.5,0.75", "--out", "out/mine"]) == 1
    assert "holds files that hpm-video sweep did not write" in capsys.readouterr().err and not started
    assert [file.name for file in Path("out/mine").iterdir()] == ["notes.txt"]


def test_a_run_that_fails_stops_the_sweep_with_its_name(place, keys, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sweep, "start_command", lambda words: 1)
    assert main(["sweep", *keys, "data.root=videos", "mask.ratio=0.5,0.75", "--out", "out/new"]) == 1
    assert "ratio-0.5: exit status 1" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_until_the_run_has_saved(number, tmp_path) -> None:
    """The run gets SIGTERM from the sweep, Ctrl-C from the terminal; here the sweep stands alone."""
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(1); open(sys.argv[1], 'w').write('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)\n"
        "print('ready', flush=True); time.sleep(30)\n"
    )
    outer = (
        "import sys\nfrom hpm_video.api.sweep import start_command\n"
        "sys.exit(start_command([sys.executable, '-c', sys.argv[1], sys.argv[2]]))\n"
    )
    words = [sys.executable, "-c", outer, code, str(tmp_path / "file")]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    watch = threading.Timer(60, process.kill)
    watch.start()
    assert process.wait() != 0 and (tmp_path / "file").read_text() == "saved"
    watch.cancel()

"""Work on many files: hangs, crashes and errors are named, nothing is done twice, and an interrupt loses nothing."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hpm_video.files import is_alive
from hpm_video.preprocess.jobs import SPECIAL, count_reasons, keep_settings, run_jobs
from hpm_video.types import UserError

# Worker processes import what they run: a module that they can find.
WORK = """
import os, signal, time
from hpm_video.errors import UserError

def work(name, log):
    with open(log, "a") as stream:
        stream.write(f"{name} {os.getpid()}\\n")
    if "hang" in name:
        time.sleep(100)
    if "signal" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "end" in name:
        os._exit(3)
    if "error" in name:
        raise ValueError("no such thing")
    if "full" in name:
        raise UserError("the disk is full")
    time.sleep(0.1 if "slow" in name else 0)
    return {"length": len(name)}
"""
SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from work_of_jobs import work
from hpm_video.preprocess.jobs import run_jobs

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    files = {f"slow{n}": folder / "data" / f"slow{n}" for n in range(30)}
    run_jobs(files, partial(work, log=str(folder / "log")), folder / "results.jsonl", "test", {"a": 1}, 2, 60.0)
"""


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "work_of_jobs.py").write_text(WORK)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "data").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("work_of_jobs", None)
    return tmp_path


def run(folder: Path, names: list[str], settings: dict, time_limit_s: float = 60.0, **more) -> list[dict]:
    from work_of_jobs import work

    for file in (folder / "data" / name for name in names):
        if not file.exists():
            file.touch()
    files = {name: folder / "data" / name for name in names}
    log = str(folder / "log")
    return run_jobs(files, partial(work, log=log), folder / "results.jsonl", "test", settings, 2, time_limit_s, **more)


def done(folder: Path) -> list[str]:
    file = folder / "log"
    names = [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(names)


def test_hang_crash_and_error_are_named_and_the_others_done(folder) -> None:
    names = ["a", "bb", "hang", "signal", "end", "error", "ccc", "d\udc80", "e\nf"]
    records = run(folder, names, {}, 0.5)
    assert [record["path"] for record in records] == names
    assert [record.get("reason", record.get("length")) for record in records] == [
        1,
        2,
        "no answer within 0.5 s",
        "the reader crashed (signal 11)",
        "the reader crashed (exit status 3)",
        "ValueError: no such thing",
        3,
        "its name is not UTF-8",
        "its name holds a line break",
    ]
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert sorted(line["path"] for line in lines) == sorted(names) and len(done(folder)) == 7
    again = run(folder, [name for name in names if name != "hang"], {}, 2.0)
    assert done(folder) == [] and again == [record for record in records if record["path"] != "hang"]


def test_only_what_is_new_or_changed_is_done_again(folder) -> None:
    names = ["a", "bb", "ccc", "dddd"]
    run(folder, names, {"full": False})
    assert done(folder) == names
    (folder / "data" / "a").write_text("longer")
    os.utime(folder / "data" / "bb", (1, 1))
    records = run(folder, [*names, "new"], {"full": False})
    assert done(folder) == ["a", "bb", "new"] and records[0]["size"] == 6
    run(folder, names, {"full": False}, still_good=lambda record: record["path"] != "ccc")
    assert done(folder) == ["ccc"]
    run(folder, names, {"full": True})
    assert done(folder) == names


def test_a_larger_time_limit_tries_again_what_took_too_long(folder) -> None:
    run(folder, ["hang"], {}, 0.3)
    run(folder, ["hang"], {}, 0.2)
    assert done(folder) == ["hang"]
    assert run(folder, ["hang"], {}, 0.4)[0]["reason"] == "no answer within 0.4 s" and done(folder) == ["hang"]


def test_a_half_written_line_is_done_again_and_does_not_spoil_the_next(folder) -> None:
    run(folder, ["a", "bb"], {})
    content = (folder / "results.jsonl").read_bytes()
    (folder / "results.jsonl").write_bytes(content[:-9])
    done(folder)
    assert len(run(folder, ["a", "bb"], {})) == 2
    assert len(done(folder)) == 1
    assert sorted((folder / "results.jsonl").read_bytes().splitlines()) == sorted(content.splitlines())


def test_a_fault_of_the_user_stops_all(folder) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        run(folder, ["full", "a"], {})
    assert "full" not in (folder / "results.jsonl").read_text()


def test_what_is_no_regular_file_is_not_opened(folder) -> None:
    os.mkfifo(folder / "data" / "pipe")
    (folder / "data" / "device").symlink_to("/dev/zero")
    records = run(folder, ["pipe", "a", "device"], {})
    assert [record.get("reason") for record in records] == [SPECIAL, None, SPECIAL] and done(folder) == ["a"]


def test_killed_in_the_middle(folder, wait_for) -> None:
    names = [f"slow{n}" for n in range(30)]
    for name in names:
        (folder / "data" / name).touch()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])}
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    results = folder / "results.jsonl"
    wait_for(lambda: results.exists() and results.read_text().count("\n") >= 5)
    process.kill()
    process.wait()
    workers = {int(line.split()[1]) for line in (folder / "log").read_text().splitlines()}
    wait_for(lambda: not any(is_alive(worker) for worker in workers), 20)
    recorded = {json.loads(line)["path"] for line in results.read_text().splitlines()}
    assert 5 <= len(recorded) < 30
    done(folder)
    assert len(run(folder, names, {"a": 1})) == 30
    assert done(folder) == sorted(set(names) - recorded)


def test_settings_are_kept_and_a_change_is_named(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    keep_settings(tmp_path / "out" / "s.json", {"gop": 4, "fps": None})
    keep_settings(tmp_path / "out" / "s.json", {"gop": 4, "fps": None})
    with pytest.raises(UserError, match=r"out was made with other settings: gop 4 -> 8; expected the same"):
        keep_settings(tmp_path / "out" / "s.json", {"gop": 8, "fps": None})
    (tmp_path / "out" / "s.json").write_text("{")
    with pytest.raises(UserError, match="not the settings of a run"):
        keep_settings(tmp_path / "out" / "s.json", {"gop": 4})


def test_words() -> None:
    reasons = [{"reason": "frame 3 is bad"}, {"reason": "empty"}, {"reason": "frame 12 is bad"}, {"frames": 1}]
    assert count_reasons(reasons) == [("frame 3 is bad (or other numbers)", 2), ("empty", 1)]

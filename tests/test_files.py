"""Writing: whole or not at all, only into folders of one's own, one writer at a time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpm_video.errors import UserError
from hpm_video.files import HOLDER, MARK, OwnFolder, hold, is_alive, replacing, write_json, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), replacing(file) as draft:
        draft.write_text("half")
        1 / 0  # noqa: B018
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    write_json(file, {"loss": float("nan"), "of": [float("inf"), 1.5]})
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {"loss": None, "of": [None, 1.5]}


def test_a_link_is_replaced_and_its_target_stays(tmp_path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "ours")
    assert (tmp_path / "target").read_text() == "theirs" and not (tmp_path / "link").is_symlink()


def test_files_get_the_permissions_of_the_umask(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a.bin") as draft:
            draft.unlink()
            os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))
        assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_drafts_of_killed_processes_are_removed_and_no_others(tmp_path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from hpm_video.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as d: d.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")])
    (tmp_path / ".a.draft.txt").write_text("a user's")
    assert len(os.listdir(tmp_path)) == 2
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == [".a.draft.txt", "a.txt"]


def test_a_process_that_ended_is_not_alive_before_it_is_reaped() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert is_alive(process.pid)
    process.kill()
    until = time.monotonic() + 60
    while is_alive(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(process.pid)  # nobody has waited for it: a zombie
    process.wait()


@pytest.mark.parametrize("name", ["file/below.txt", "folder"])
def test_faults_of_the_disk_are_user_errors(tmp_path, name) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError):
        write_text(tmp_path / name, "x")


def test_a_full_disk_is_a_user_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    from hpm_video.files import disk_faults

    with pytest.raises(UserError, match="No space"), disk_faults("/dev/full"), open("/dev/full", "w") as stream:
        stream.write("x")


def test_new_empty_and_own_folders_are_taken(tmp_path) -> None:
    for path in (tmp_path / "new" / "below", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        OwnFolder.claim(path, "export").file("a.txt").write_text("1")
        own = OwnFolder.claim(path, "export")
        own.reserve(["a.txt"])  # its own: no error
        own.remove("a.txt")
        assert os.listdir(path) == [MARK]


def test_foreign_folders_files_and_dangling_links_are_refused_and_stay(tmp_path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("theirs")
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "link").symlink_to(foreign)
    OwnFolder.claim(tmp_path / "scanned", "scan")
    for name in ("foreign", "file", "nowhere", "link", "file/below", "scanned"):
        with pytest.raises(UserError):
            OwnFolder.claim(tmp_path / name, "export")
    assert os.listdir(foreign) == ["thesis.txt"] and (tmp_path / "file").read_text() == "theirs"
    assert json.loads((tmp_path / "scanned" / MARK).read_text())["made_by"] == "scan"


def test_what_the_user_puts_into_an_own_folder_is_never_reserved_or_removed(tmp_path) -> None:
    own = OwnFolder.claim(tmp_path / "out", "prepare")
    own.file("a.mp4").write_text("ours")
    (tmp_path / "out" / "b.mp4").write_text("theirs")
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    for name in ("b.mp4", "../c.mp4", "/etc/passwd", "sub/d.mp4", "a.mp4/e.mp4"):
        with pytest.raises(UserError):
            own.reserve([name])
    own.remove("b.mp4")
    assert (tmp_path / "out" / "b.mp4").read_text() == "theirs"
    assert OwnFolder.claim(tmp_path / "out", "prepare").names == {"a.mp4"}


def test_a_folder_from_before_there_were_marks(tmp_path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "scan.json").write_text("{}")
    own = OwnFolder.claim(tmp_path / "old", "scan", lambda path: ["scan.json"])
    assert own.names == {"scan.json"}


HOLDING = (
    "import sys, time; from pathlib import Path; from hpm_video.files import hold\n"
    "with hold(Path(sys.argv[1]), 'hpm-video pretrain'): print('held', flush=True); time.sleep(60)"
)


def test_one_writer_at_a_time_and_a_killed_one_holds_nothing(tmp_path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=f"hpm-video pretrain .process {holder.pid}"),
        hold(tmp_path, "other", wait_s=0.2),
    ):
        pass
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with hold(tmp_path, "other"):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    assert time.monotonic() - began < 10 and not (tmp_path / HOLDER).exists()

"""Folders of a command: whose they are, what may be replaced in them, and one writer at a time."""

import json
import os
import subprocess
import sys
import time

import pytest

from hpm_video.errors import UserError
from hpm_video.own_folder import HOLDER, MARK, OwnFolder, hold


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
    "import sys, time; from pathlib import Path; from hpm_video.own_folder import hold\n"
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

"""Writing: whole or not at all, only into folders of one's own, one writer at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpm_video.errors import UserError
from hpm_video.files import is_alive, replacing, write_json, write_text


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


def test_a_process_that_ended_is_not_alive_before_it_is_reaped(wait_for) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert is_alive(process.pid)
    process.kill()
    wait_for(lambda: not is_alive(process.pid))  # nobody has waited for it: a zombie
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

"""The description of a machine: versions, commit, hardware."""

import subprocess
from pathlib import Path

from hpm_video.cores import num_free_cores
from hpm_video.runs import machine as record


def test_versions_of_what_is_absent_are_null(monkeypatch) -> None:
    monkeypatch.setattr(record, "LIBRARIES", ("torch", "no-such-library"))
    versions = record.list_versions()
    assert versions["no-such-library"] is None and versions["torch"]


def test_commit_is_gits_and_null_where_there_is_none(tmp_path, monkeypatch) -> None:
    root = tmp_path / "checkout"
    (root / "hpm_video").mkdir(parents=True)
    (root / "hpm_video" / "__init__.py").touch()
    monkeypatch.setattr(record.hpm_video, "__file__", str(root / "hpm_video" / "__init__.py"))
    assert record.source_commit() is None
    (root / ".git").mkdir()
    assert record.source_commit() is None  # git fails
    (root / ".git").rmdir()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert record.source_commit() == {"commit": head, "dirty": False}
    (root / "hpm_video" / "__init__.py").write_text("changed\n")
    assert record.source_commit() == {"commit": head, "dirty": True}


def test_one_description_of_the_machine() -> None:
    """The small record and the whole one agree, and nobody else describes a machine."""
    small, hardware, versions = record.describe_machine(), record.describe_hardware(), record.list_versions()
    assert small["processor"] == hardware["processor"] and small["hpm_video"] == versions["hpm_video"]
    assert hardware["cores"] == num_free_cores() > 0 and record.peak_memory_gib() > 0.01
    library = Path(record.__file__).parents[1]
    others = [file for file in library.rglob("*.py") if "/proc/cpuinfo" in file.read_text()]
    assert others == [Path(record.__file__)]

"""Completion: the printed script is one of its shell, and completes commands, options and keys."""

import contextlib
import io
import shutil
import subprocess
import sys

import pytest

from hpm_video.cli import main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab", reason="shtab is not installed")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["completion", "bash"]) == 0
    file = tmp_path_factory.mktemp("completion") / "hpm-video"
    file.write_text(said.getvalue())
    return file


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["pre"], {"prepare", "pretrain", "predict"}),
        (["pretrain", "--dry"], {"--dry-run"}),
        (["pretrain", "mask.rat"], {"mask.ratio="}),
        (["finetune", "model.head_dr"], {"model.head_dropout="}),
        (["test", "RUN", "test.num_cl"], {"test.num_clips="}),
        (["score", "RUN", "data.cl"], {"data.clips="}),
        (["score", "RUN", "model."], set()),
    ],
)
def test_bash_completes(script, words, found) -> None:
    typed = " ".join(f"'{word}'" for word in ["hpm-video", *words])
    code = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; "
        "$(complete -p hpm-video | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert {line.strip() for line in done.stdout.splitlines() if line.strip()} == found, done.stderr


def test_other_shells_and_a_missing_library(capsys, monkeypatch) -> None:
    for shell in ("zsh", "tcsh"):
        assert main(["completion", shell]) == 0 and "hpm-video" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "hpm-video completion needs shtab" in capsys.readouterr().err

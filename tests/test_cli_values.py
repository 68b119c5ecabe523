"""Wrong values of options: exit status 1 or 2 and a message, whatever stands there."""

from pathlib import Path

import pytest

from hpm_video.cli import main

NUMBERS = ["0", "-1", "x", "", "1e400", "nan", "-inf", "9" * 5000, "1.5x", "٠", "1" + "0" * 30]
SEEDS = ["-1", "x", "", "1.5", "9" * 5000, str(2**63)]
LONG = "n" * 300
CASES = [
    *((["predict", "RUN", "v.mp4"], "--top", value) for value in NUMBERS),
    *((["predict", "RUN", "v.mp4"], "--every-s", value) for value in NUMBERS),
    *((["probe", "RUN"], "--epochs", value) for value in NUMBERS),
    *((["probe", "RUN"], "--cache-gib", value) for value in NUMBERS),
    *((["features", "v.mp4", "--run", "RUN", "--out", "f.npz"], "--stride-s", value) for value in NUMBERS),
    *((["pack", "videos", "packed"], "--samples-per-shard", value) for value in NUMBERS),
    *((["pack", "videos", "packed"], "--seed", value) for value in SEEDS),
    *(
        ([command, "videos", *out], "--workers", value)
        for command, out in (("scan", []), ("prepare", ["o"]))
        for value in NUMBERS
    ),
    *((["scan", "videos"], "--time-limit", value) for value in NUMBERS),
    *((["prepare", "videos", "o"], "--short-side", value) for value in NUMBERS),
    *((["doctor"], "--ranks", value) for value in NUMBERS),
    *((["export", "RUN"], "--to", value) for value in ("", "x", LONG)),
    *((["report", "RUN"], "--group", value) for value in ("", "x", LONG, "a.b.c")),
    *((["report", "RUN"], "--compare", value) for value in ("", "x")),
    *((["pretrain", "data.root=videos"], "--config", value) for value in ("", ".", LONG, "none.yaml")),
    *((["finetune", "data.root=videos"], "--config", value) for value in ("", "/dev/null/x")),
]


def status_of(words: list[str]) -> int:
    try:
        return main(words)
    except SystemExit as end:  # argparse
        return int(end.code or 0)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with an empty folder and an empty file in it."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "v.mp4").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("words", "option", "value"), CASES, ids=lambda value: ascii(value)[-24:])
def test_wrong_value(here, capsys, words: list[str], option: str, value: str) -> None:
    before = sorted(here.rglob("*"))
    assert status_of([*words, f"{option}={value}"]) in (1, 2)
    said = capsys.readouterr().err
    assert "error: " in said and "Traceback" not in said and len(said) < 12_000
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "value", ["", LONG, "none", "v.mp4", "videos", "a/" * 3000, "é\udcff", "\x1b[31m", "/dev/null/x"], ids=ascii
)
@pytest.mark.parametrize(
    "command",
    ["show", "knn", "probe", "score", "test", "export", "report", "predict", "features", "scan", "prepare", "pack"],
)
def test_wrong_path(here, capsys, command: str, value: str) -> None:
    words = {
        "predict": ["predict", value, "v.mp4"],
        "features": ["features", "v.mp4", "--run", value, "--out", "f.npz"],
        "prepare": ["prepare", value, "o"],
        "pack": ["pack", value, "o"],
    }.get(command, [command, value])
    assert status_of(words) in (1, 2)
    said = capsys.readouterr().err
    assert "error: " in said and "Traceback" not in said and "\x1b" not in said

"""Every command that takes a run, given what is not such a run: one sentence with a way out, exit 1, nothing written."""

import shutil
from pathlib import Path

import pytest

from hpm_video.cli import main

TAKES = {  # command -> (words around the run, the kind of run that it takes)
    "show": (["show", "RUN"], "pretrain"),
    "score": (["score", "RUN"], "pretrain"),
    "knn": (["knn", "RUN"], "pretrain"),
    "probe": (["probe", "RUN", "--head", "linear"], "pretrain"),
    "features": (["features", "x.mp4", "--run", "RUN", "--out", "x.npz"], "pretrain"),
    "export": (["export", "RUN"], None),
    "test": (["test", "RUN"], "finetune"),
    "predict": (["predict", "RUN", "x.mp4"], "finetune"),
    "report": (["report", "RUN"], "report"),
}
HELP = {  # what is given -> what the sentence says
    "missing": "does not exist; expected the folder of a",
    "file": "is a file; expected the folder of a",
    "empty": "is not a run folder: it has no config.yaml; expected the folder of a",
    "videos": "is not a run folder: it has no config.yaml; expected the folder of a",
    "above": "has no config.yaml; expected the folder of a",
    "inside": "lies in a run folder; expected the folder of a",
    "damaged": "config.yaml is not valid YAML",
    "list": "config.yaml: holds no keys",
}
WAYS_OUT = (
    "To make one: hpm-video ",
    "Try ",
    "expected the configuration of a run",
    "Rerun the command that started it",
)


@pytest.fixture()
def wrong(tmp_path, make_run) -> dict[str, Path]:
    run, _ = make_run()
    here = tmp_path / "wrong"
    for name in ("empty", "videos", "damaged", "list", "above/run", "inside/checkpoints/step-00000001"):
        (here / name).mkdir(parents=True)
    (here / "file").write_text("x")
    (here / "videos" / "a.mp4").write_bytes(b"x")
    (here / "damaged" / "config.yaml").write_text("data: {root: [")
    (here / "list" / "config.yaml").write_text("- a\n- b\n")
    for name in ("above/run", "inside"):
        shutil.copy(run / "config.yaml", here / name / "config.yaml")
    found = {name: here / name for name in HELP}
    return found | {"inside": here / "inside" / "checkpoints" / "step-00000001"}


def snapshot(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.parametrize("command", TAKES)
def test_what_is_not_a_run_is_said(command, wrong, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    for name, path in wrong.items():
        words = [str(path) if word == "RUN" else word for word in TAKES[command][0]]
        if command == "report" and name in ("damaged", "list"):
            continue  # reports read results.json alone
        assert main(words) == 1, (command, name)
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and HELP[name] in said, (command, name, said)
        assert any(way in said for way in WAYS_OUT), (command, name, said)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", TAKES)
def test_a_run_of_the_other_kind_or_without_weights_is_said(
    command, tmp_path, make_run, trained, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    words, kind = TAKES[command]
    pretrained, _ = make_run()
    pretrained = pretrained.rename(tmp_path / "pretrained")
    tuned = trained().run
    if kind in ("pretrain", "finetune"):
        other, way = (
            (tuned, "Try: hpm-video test ")
            if kind == "pretrain"
            else (pretrained, "Try: hpm-video finetune data.root=DIR")
        )
        assert main([str(other) if word == "RUN" else word for word in words]) == 1
        said = capsys.readouterr().err
        assert "run; expected the folder of a" in said and way in said and said.count("\n") == 1
    own = tuned if kind == "finetune" else pretrained
    for name in ("encoder.safetensors", "classifier.safetensors"):
        (own / name).unlink(missing_ok=True)
    if command == "predict":
        (tmp_path / "x.mp4").write_bytes(b"x")
    assert main([str(own) if word == "RUN" else word for word in words]) == 1
    said = capsys.readouterr().err
    reason = "has no results.json: the run has not finished" if command == "report" else "has no checkpoint yet"
    assert reason in said and "Rerun the command that started it" in said and said.count("\n") == 1, said

"""Run folders in which any one file is cut, empty, nonsense, of another kind or gone: every command works or says one sentence."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.data.manifest import write_manifest
from hpm_video.preprocess.encode import write_video

TINY = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=16 "
    "model.depth=1 model.num_heads=1 optim.batch_size=4 train.steps=2 train.log_every_steps=1 train.measure_every_steps=1 "
    "train.save_every_steps=1 engine.precision=fp32 engine.num_threads=1"
).split()
PRETRAIN = (
    *("pretrain", *TINY, "model.decoder_width=8", "model.decoder_heads=1", "model.decoder_depth=1", "mask.ratio=0.75"),
    *("mask.hard_share_start=0.5", "train.num_pictures=1"),
)
FINETUNE = ("finetune", *TINY, "test.num_clips=1", "test.num_crops=1")
LONGEST_S = 100  # of one command; each takes about a second


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """set/, pre/ (pretrained, scored) and fine/ (fine-tuned from it, tested)."""
    base, rng, splits = tmp_path_factory.mktemp("whole"), np.random.default_rng(0), {}
    (base / "set").mkdir()
    for split, count in (("train", 8), ("validation", 4)):
        for number in range(count):
            frames = rng.integers(0, 90, (8, 16, 16, 3))
            frames[..., number % 2] += 100
            write_video(base / "set" / f"{split}{number}.mkv", frames.astype(np.uint8), 10)
        splits[split] = [Row(f"{split}{number}.mkv", number % 2) for number in range(count)]
    write_manifest(base / "set", "colours", base / "set", splits, ["red", "green"])
    data = f"data.root={base / 'set'}"
    assert main([*PRETRAIN, data, f"train.output={base / 'pre'}"]) == 0
    assert main([*FINETUNE, data, f"train.output={base / 'fine'}", f"init.weights={base / 'pre'}"]) == 0
    assert main(["knn", str(base / "pre")]) == 0
    return base


def words_of(command: str, base: Path, run: Path, out: Path) -> list[str]:
    """The command line of a command on a run, written somewhere else where it can be."""
    video, data = str(base / "set" / "train0.mkv"), f"data.root={base / 'set'}"
    to = ["--out", str(out / "made")]
    longer = ["train.steps=3", "train.accept=steps", data, f"train.output={run}"]
    found: dict[str, list[str]] = {
        "show": ["show", str(run), *to],
        "knn": ["knn", str(run)],
        "probe": ["probe", str(run), "--head", "linear"],
        "score": ["score", str(run)],
        "test": ["test", str(run)],
        "predict": ["predict", str(run), video, *to],
        "features": ["features", video, "--run", str(run), "--out", str(out / "made.npz")],
        "export": ["export", str(run)],
        "videomae": ["export", str(run), "--to", "videomae", *to],
        "report": ["report", str(run), *to],
        "pretrain": [*PRETRAIN, *longer],
        "finetune": [*FINETUNE, *longer, f"init.weights={base / 'pre'}"],
        "init": [*FINETUNE, data, f"train.output={out / 'tuned'}", f"init.weights={run}"],
        "init file": [*FINETUNE, data, f"train.output={out / 'tuned'}", f"init.weights={run / 'encoder.safetensors'}"],
        "again": [*PRETRAIN, data, f"train.output={out / 'pretrained'}", f"init.weights={run}"],
    }
    return found[command]


STEP = "checkpoints/step-00000002"
COMMANDS = {
    "pre": "show knn probe score features export videomae report pretrain init again".split(),
    "fine": "test predict features export videomae report finetune init".split(),
}
# What reads a file; "": after the checkpoints were deleted, as in a copy for use.
READERS: dict[tuple[str, str], list[str]] = {
    ("pre", "config.yaml"): ["show", "knn", "pretrain", "init"],
    ("pre", "encoder.json"): ["init file"],
    ("pre", "encoder.safetensors"): ["init file"],
    ("pre", "metrics.jsonl"): ["show", "report", "pretrain"],
    ("pre", "difficulty.jsonl"): ["show", "pretrain"],
    ("pre", "results.json"): ["report", "knn", "pretrain"],
    ("pre", "held_out.json"): ["pretrain"],
    ("pre", "data.json"): ["pretrain"],
    ("pre", ".hpm-video.json"): ["pretrain"],
    ("pre", f"{STEP}/state.json"): ["show", "export", "pretrain"],
    ("pre", f"{STEP}/student.safetensors"): ["show", "export", "init", "pretrain"],
    ("pre", f"{STEP}/teacher.safetensors"): ["show", "again", "pretrain"],
    ("pre", f"{STEP}/optimizer.safetensors"): ["pretrain"],
    ("fine", "config.yaml"): ["test", "predict", "finetune"],
    ("fine", "classes.json"): ["test", "predict", "finetune", "init"],
    ("fine", "results.json"): ["report", "test", "finetune"],
    ("fine", f"{STEP}/state.json"): ["predict", "finetune"],
    ("fine", f"{STEP}/student.safetensors"): ["predict", "finetune"],
    ("fine", "classifier.safetensors"): ["test"],
}
KINDS = {  # what may stand in a JSON or YAML file, and is not what is expected
    "null": "null",
    "list": '[1, "x", null]',
    "object": '{"a": 1}',
    "text": '"text"',
    "deep": "[" * 100_000 + "]" * 100_000,
    "digits": "9" * 5000,
}
BYTES = {"empty": b"", "bytes": bytes(range(256)) * 8}


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "cut":
        file.write_bytes(content[: len(content) * 2 // 3])
    elif how == "flipped":
        flipped = bytearray(content)
        for place in range(0, len(flipped), 37):
            flipped[place] ^= 1 << place % 8
        file.write_bytes(bytes(flipped))
    elif how != "gone":
        file.write_bytes(BYTES[how] if how in BYTES else KINDS[how].encode())


def check(words: list[str], capsys: Any) -> None:
    """Exit 0, or exit 1 with one sentence, within LONGEST_S."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"{words} took more than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    capsys.readouterr()
    try:
        code = main(words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = capsys.readouterr().err.strip()
    assert code == 0 or (code == 1 and said.startswith("error: ") and len(said.splitlines()) == 1), (code, said)


@pytest.fixture
def copies(whole, tmp_path) -> Iterator[Callable[[str], Path]]:
    """copies("pre"): a new copy of that run."""
    yield lambda kind: Path(shutil.copytree(whole / kind, tmp_path / kind))


QUICK = [
    *(("pre", "config.yaml", how, "show") for how in ("cut", "bytes", "list", "pipe")),
    *(("pre", "encoder.json", how, "init file") for how in ("deep", "object")),
    *(("pre", "metrics.jsonl", how, "report") for how in ("bytes", "list", "gone", "pipe")),
    *(("pre", "difficulty.jsonl", how, "show") for how in ("object", "bytes")),
    *(("pre", f"{STEP}/student.safetensors", how, "export") for how in ("cut", "pipe")),
    *(("pre", f"{STEP}/state.json", how, "export") for how in ("empty", "deep")),
    *(("fine", "classes.json", how, "predict") for how in ("null", "object", "list", "deep")),
    *(("fine", "config.yaml", how, "test") for how in ("empty", "digits")),
]
ALL_WAYS = ["empty", "cut", "flipped", "bytes", "gone", "folder", "pipe", *KINDS]
FULL = [(*place, how, command) for place, commands in READERS.items() for how in ALL_WAYS for command in commands]


@pytest.mark.parametrize(("kind", "name", "how", "command"), QUICK)
def test_damaged_file(whole, copies, tmp_path, capsys, kind: str, name: str, how: str, command: str) -> None:
    run = copies(kind)
    damage(run / name, how)
    check(words_of(command, whole, run, tmp_path), capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "how", "command"), FULL)
def test_every_damaged_file(whole, copies, tmp_path, capsys, kind: str, name: str, how: str, command: str) -> None:
    run = copies(kind)
    damage(run / name, how)
    check(words_of(command, whole, run, tmp_path), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("how", ALL_WAYS)
@pytest.mark.parametrize("pattern", ["features/*/part-*", "tests/*/results.json", "tests/*/rank-0.jsonl"])
def test_damaged_file_beside(whole, copies, tmp_path, capsys, pattern: str, how: str) -> None:
    """Files of caches and of tests."""
    kind = "pre" if "features" in pattern else "fine"
    run = copies(kind)
    for file in run.glob(pattern):
        damage(file, how)
    for command in ("knn",) if kind == "pre" else ("test", "predict"):
        check(words_of(command, whole, run, tmp_path), capsys)


def leaves(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in JSON, sections included."""
    if path:
        yield path
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from leaves(value, (*path, name))


WRONG = [None, "text", 3, [], {}, [1, "x"], True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("pre", "results.json", "report"),
        ("pre", "encoder.json", "init file"),
        ("fine", "results.json", "report"),
        ("pre", f"{STEP}/state.json", "export"),
        ("pre", "data.json", "pretrain"),
    ],
)
def test_every_value_of_another_type(whole, copies, tmp_path, capsys, kind: str, name: str, command: str) -> None:
    run = copies(kind)
    content = (run / name).read_text()
    for number, path in enumerate(leaves(json.loads(content))):
        if path[0] == "config" and number % 9:
            continue
        for wrong in WRONG[number % 2 :: 2]:
            tree = json.loads(content)
            place = tree
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = wrong
            (run / name).write_text(json.dumps(tree))
            shutil.rmtree(tmp_path / "tuned", ignore_errors=True)
            check(words_of(command, whole, run, tmp_path), capsys)

"""Where commands write: a folder or file that is new, empty or the command's own; everything else stays, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpm_video.catalog.rows import Row
from hpm_video.cli import main
from hpm_video.config import load_finetune_config, to_yaml
from hpm_video.data.manifest import write_manifest
from hpm_video.models.classifier import Classifier
from hpm_video.own_folder import MARK, hold
from hpm_video.preprocess.copies import find_older_copy
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.scan import find_older_scan
from hpm_video.preprocess.shard_target import find_older_shards
from hpm_video.runs.settings import save_classes
from hpm_video.weights.export import find_older_export

OLD = Path(__file__).parent / "fixtures" / "before_marks"

SHAPE = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 model.patch_px=4 model.width=32 model.depth=1 "
    "model.num_heads=2 engine.precision=fp32 engine.num_threads=1"
).split()
PRETRAIN = (
    "data.num_held_out=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 model.predictor_depth=1 "
    "mask.ratio=0.75 optim.batch_size=4 train.steps=1 train.num_pictures=1"
).split()


class World(NamedTuple):
    """What commands read: a folder of two videos, a run of each kind, and a labelled set."""

    videos: Path
    run: Path
    tuned: Path
    labelled: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for folder in ("videos", "labelled", "tuned"):
        (root / folder).mkdir()
    names = [*(root / "videos" / f"{n}.mkv" for n in "ab"), *(root / "labelled" / f"{n}.mkv" for n in range(8))]
    for number, file in enumerate(names):
        frames = rng.integers(0, 90, size=(6, 16, 16, 3))
        frames[..., number % 2] += 100
        write_video(file, frames.astype(np.uint8), 10)
    rows = [Row(f"{n}.mkv", n % 2) for n in range(8)]
    labelled = write_manifest(
        root / "labelled", "two", root / "labelled", {"train": rows[:6], "validation": rows}, ["x", "y"]
    )
    words = ["pretrain", *SHAPE, *PRETRAIN, f"data.root={labelled}", f"train.output={root / 'run'}"]
    assert main(words) == 0
    config = load_finetune_config(None, [*SHAPE, f"data.root={labelled}", f"train.output={root / 'tuned'}"])
    torch.manual_seed(1)
    save_file(Classifier.of(config, 2).state_dict(), root / "tuned" / "classifier.safetensors")
    (root / "tuned" / "config.yaml").write_text(to_yaml(config))
    save_classes(root / "tuned", ["x", "y"])
    return World(root / "videos", root / "run", root / "tuned", labelled)


Words = Callable[[World, Path], list[object]]
JOBS = ["--workers", "1"]
FOLDERS: dict[str, Words] = {
    "scan": lambda w, out: ["scan", w.videos, "--out", out, *JOBS],
    "prepare": lambda w, out: ["prepare", w.videos, out, *JOBS],
    "pack": lambda w, out: ["pack", w.videos, out],
    "show": lambda w, out: ["show", w.run, "--out", out],
    "report": lambda w, out: ["report", w.run, "--out", out],
    "export": lambda w, out: ["export", w.run, "--to", "videomae", "--out", out],
    "predict": lambda w, out: ["predict", w.tuned, w.videos / "a.mkv", "--out", out],
}
COMMANDS: dict[str, Words] = FOLDERS | {
    "features": lambda w, out: [
        "features",
        w.videos / "a.mkv",
        "--run",
        w.run,
        "--out",
        out.with_name(f"{out.name}.npz"),
    ],
}
OWN_FILES = {
    "show": "curves.png",
    "report": "report.md",
    "export": "config.json",
    "predict": "a.mkv.json",
    "pack": "bad.csv",
}
OWN_FILES |= {"scan": "good.txt", "prepare": "a.mp4"}


def run(words: list[object]) -> int:
    return main([str(word) for word in words])


def snapshot(root: Path) -> dict[str, object]:
    """Every file, folder and link below a folder."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        kind = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = kind
    return found


def refused(words: list[object], capfd) -> str:
    """Exit status 1 and one line; the line."""
    capfd.readouterr()
    assert run(words) == 1
    told = capfd.readouterr().err.strip()
    assert told.startswith("error: ") and "\n" not in told and "Traceback" not in told, told
    return told


def target_of(command: str, out: Path) -> Path:
    return out.with_name(f"{out.name}.npz") if command == "features" else out


@pytest.mark.parametrize("command", FOLDERS)
def test_new_own_and_empty_folders_are_written_and_the_users_files_in_them_stay(command, world, tmp_path) -> None:
    out = tmp_path / "new" / "out"
    assert run(FOLDERS[command](world, out)) == 0
    assert (out / MARK).is_file() and (out / OWN_FILES[command]).is_file()
    (out / "thesis.txt").write_text("theirs")
    assert run(FOLDERS[command](world, out)) == 0
    assert (out / "thesis.txt").read_text() == "theirs" and (out / OWN_FILES[command]).is_file()
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()}
    assert set(modes.values()) - {0o666 & ~umask} == set(), modes


@pytest.mark.parametrize("command", ["show", "report", "predict", "export", "pack"])
def test_a_link_to_an_empty_folder(command, world, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "empty")
    assert run(FOLDERS[command](world, tmp_path / "out")) == 0
    assert (tmp_path / "empty" / OWN_FILES[command]).is_file() and (tmp_path / "out").is_symlink()


def make_foreign(kind: str, command: str, out: Path) -> Path:
    """Something of the user's where the command is to write; where the command is told to write."""
    if kind == "foreign":
        (out / "sub").mkdir(parents=True)
        (out / OWN_FILES.get(command, "x")).write_text("theirs")
        (out / "sub" / "a.mp4").write_text("theirs")
    elif kind == "file":
        out.write_text("theirs")
    elif kind == "link to a file":
        (out.parent / "theirs").write_text("theirs")
        out.symlink_to(out.parent / "theirs")
    elif kind == "link to a folder":
        (out.parent / "theirs").mkdir()
        (out.parent / "theirs" / "thesis.txt").write_text("theirs")
        out.symlink_to(out.parent / "theirs")
    elif kind == "dangling link":
        out.symlink_to(out.parent / "nowhere")
    elif kind == "below a file":
        out.write_text("theirs")
        return out / "x.npz"
    elif kind == "of another command":
        other = "hpm-video scan" if command != "scan" else "hpm-video pack"
        out.mkdir()
        (out / MARK).write_text(json.dumps({"format": "hpm-video folder 1", "made_by": other, "names": []}))
    return out


KINDS = ("foreign", "file", "link to a file", "link to a folder", "dangling link", "below a file", "of another command")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_the_users_is_refused_and_stays(command, kind, world, tmp_path, capfd) -> None:
    out = make_foreign(kind, command, target_of(command, tmp_path / "out"))
    before = snapshot(tmp_path)
    words = COMMANDS[command](world, tmp_path / "out")
    words = [out if word == target_of(command, tmp_path / "out") else word for word in words]
    assert str(out) in refused(words, capfd) or kind == "below a file"
    assert snapshot(tmp_path) == before


def test_the_folder_that_one_is_in(world, tmp_path, monkeypatch, capfd) -> None:
    (tmp_path / "thesis.txt").write_text("theirs")
    monkeypatch.chdir(tmp_path)
    for command in ("export", "show", "predict"):
        refused(FOLDERS[command](world, Path(".")), capfd)
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.fixture(scope="module")
def mounted(tmp_path_factory) -> Iterator[Callable[[str], Path]]:
    """mounted("full") or mounted("read-only"): a file system of its own, with a file of the user's."""
    places: list[Path] = []

    def mount(kind: str) -> Path:
        place = tmp_path_factory.mktemp("mounted")
        size = "size=64k" if kind == "full" else "size=8m"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("no right to mount a file system")
        places.append(place)
        (place / "thesis.txt").write_text("theirs")
        if kind == "full":
            with pytest.raises(OSError), (place / "ballast").open("wb", buffering=0) as stream:
                while stream.write(b"0" * 4096):
                    pass
        else:
            (place / "run").mkdir()
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        return place

    if os.name != "posix" or os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    yield mount
    for place in places:
        subprocess.run(["umount", "-l", str(place)])


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_full_and_read_only_disks_are_one_sentence(kind, world, mounted, capfd, monkeypatch, tmp_path) -> None:
    place = mounted(kind)
    for command, words in COMMANDS.items():
        told = refused(words(world, place / command), capfd)
        assert str(place) in told, told
    assert (place / "thesis.txt").read_text() == "theirs"


@pytest.mark.parametrize("words", [["knn"], ["probe", "--head", "linear"], ["test"]], ids=lambda words: words[0])
def test_what_is_written_into_a_run_folder(words, world, tmp_path, capfd) -> None:
    source, folders = (world.tuned, ["tests"]) if words[0] == "test" else (world.run, ["scores", "features"])
    one = tmp_path / "run"
    shutil.copytree(source, one, symlinks=True)
    for folder in folders:
        (one / folder).mkdir(exist_ok=True)
    (one / folders[-1] / "thesis.txt").write_text("theirs")
    command = [words[0], one, *words[1:]]
    assert run(command) == 0
    (next((one / folders[0]).rglob("*.json")).parent / "notes.txt").write_text("theirs")
    assert run(command) == 0
    assert (one / folders[-1] / "thesis.txt").read_text() == "theirs" and list((one / folders[0]).rglob("notes.txt"))
    if "scores" in folders:  # a folder of before there were marks: what is not a score is not replaced
        (one / "scores" / MARK).unlink()
        score = next((one / "scores").glob("[!.]*.json"))
        score.write_text("theirs")
        assert "was not written by hpm-video score" in refused(command, capfd) and score.read_text() == "theirs"
    for folder in folders:
        shutil.rmtree(one / folder)
    (one / folders[0]).write_text("theirs")
    assert str(one / folders[0]) in refused(command, capfd) and (one / folders[0]).read_text() == "theirs"


def test_features_replace_their_own_file_and_leave_nothing_else(world, tmp_path) -> None:
    for ending in ("npz", "safetensors"):
        file = tmp_path / f"out.{ending}"
        for pooling in ("mean", "space"):
            words = ["features", world.videos / "a.mkv", "--run", world.run, "--out", file, "--pool", pooling]
            assert run(words) == 0
    assert sorted(os.listdir(tmp_path)) == ["out.npz", "out.safetensors"]
    (tmp_path / "out.npz.parts").mkdir()
    (tmp_path / "out.npz.parts" / "thesis.txt").write_text("theirs")
    assert run(["features", world.videos, "--run", world.run, "--out", tmp_path / "out.npz"]) == 1
    assert (tmp_path / "out.npz.parts" / "thesis.txt").read_text() == "theirs"


def test_export_of_the_programs_own_file_has_no_out(world, tmp_path, capfd) -> None:
    assert "expected no --out" in refused(["export", world.run, "--out", tmp_path / "out"], capfd)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", FOLDERS)
def test_folders_of_before_there_were_marks_are_taken(command, world, tmp_path) -> None:
    """As older versions left them: the same files, without a mark."""
    out = tmp_path / "out"
    assert run(FOLDERS[command](world, out)) == 0
    for name in [name for name in os.listdir(out) if name.startswith(".hpm-video")]:
        (out / name).unlink()
    before = snapshot(out)
    assert run(FOLDERS[command](world, out)) == 0 and (out / MARK).is_file()
    assert before.keys() <= snapshot(out).keys()


def test_real_folders_of_before_there_were_marks_are_known_whole() -> None:
    """Written by version 0.1; nothing of the user's own is taken with them."""
    readers = {"scanned": find_older_scan, "prepared": find_older_copy, "packed": find_older_shards}
    for name, find in (readers | {"whole/videomae": find_older_export}).items():
        names = find(OLD / name)
        assert names is not None and set(names) == set(os.listdir(OLD / name)), name
        assert all(other(OLD / name) is None for other in readers.values() if other is not find)


@pytest.mark.parametrize("command", FOLDERS)
def test_two_of_the_same_do_not_mix(command, world, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr("hpm_video.own_folder.hold.__wrapped__.__defaults__", (0.1,))
    out = tmp_path / "out"
    assert run(FOLDERS["predict"](world, out)) == 0 if command == "predict" else not out.mkdir()
    with hold(out, "a command that runs"):
        told = refused(FOLDERS[command](world, out), capfd)
    assert f"a command that runs (process {os.getpid()}" in told


NAME = "\x1b[31mred\x1b]0;title\x07.mkv"


def test_control_characters_in_names_do_not_reach_the_terminal(world, tmp_path, capfd) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(world.videos / "a.mkv", videos / NAME)
    (videos / ("bad" + NAME)).write_text("no video")
    (videos / "odd\udcff.mkv").write_bytes((world.videos / "b.mkv").read_bytes())
    (videos / "x\n12:00:00 done: forged.mkv").write_text("no video")
    os.mkfifo(videos / f"pipe{NAME}")
    for words in (
        ["scan", videos, "--out", tmp_path / f"scan{NAME}", *JOBS],
        ["prepare", videos, tmp_path / f"copy{NAME}", *JOBS],
        ["pack", videos, tmp_path / f"packed{NAME}"],
        ["features", videos, "--run", world.run, "--out", tmp_path / f"{NAME}.npz"],
        ["predict", world.tuned, *videos.iterdir(), "--out", tmp_path / f"predicted{NAME}"],
        ["show", world.run, "--out", tmp_path / f"shown{NAME}"],
        ["report", tmp_path / f"no run{NAME}"],
    ):
        assert run(words) in (0, 1)
        told = "".join(capfd.readouterr())
        assert "\x1b" not in told and "\x07" not in told and "\\x1b[31mred" in told and "Traceback" not in told, told
        assert "\n12:00:00 done: forged" not in told, told
    assert f"scan{NAME}" in os.listdir(tmp_path)


def test_names_that_are_not_utf8_are_left_out_and_named(world, tmp_path, capfd) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(world.videos, videos)
    shutil.copy(videos / "a.mkv", videos / "odd\udcff.mkv")
    assert run(["prepare", videos, tmp_path / "copy", *JOBS]) == 0
    assert "UTF-8" in (tmp_path / "copy" / "bad.csv").read_text()
    assert run(["pack", videos, tmp_path / "packed"]) == 1  # a third is bad
    assert "odd\\udcff.mkv" in (tmp_path / "packed" / "bad.csv").read_text()
    assert "odd\\udcff.mkv" in capfd.readouterr().out
    for number in range(30):
        shutil.copy(videos / "a.mkv", videos / f"{number}.mkv")
    assert run(["pack", videos, tmp_path / "packed"]) == 0
    assert (tmp_path / "packed" / "shards.json").is_file()


def test_pipes_and_devices_are_not_opened(world, tmp_path, capfd) -> None:
    os.mkfifo(tmp_path / "pipe.mkv")
    (tmp_path / "zero.mkv").symlink_to("/dev/zero")
    for words in (
        ["features", tmp_path / "pipe.mkv", tmp_path / "zero.mkv", "--run", world.run, "--out", tmp_path / "out.npz"],
        ["predict", world.tuned, tmp_path / "pipe.mkv", "--out", tmp_path / "predicted"],
        ["prepare", tmp_path, tmp_path.with_name("prepared"), *JOBS],
        ["pack", tmp_path, tmp_path.with_name("packed")],
    ):
        assert "a pipe, a socket or a device" in refused(words, capfd) or words[0] == "pack"
    shutil.copy(world.videos / "a.mkv", tmp_path)
    assert run(["scan", tmp_path, "--out", tmp_path.with_name("scanned"), *JOBS]) == 0
    assert (tmp_path.with_name("scanned") / "bad.csv").read_text().count("a pipe, a socket or a device") == 2


def test_a_kill_while_an_export_is_replaced_leaves_no_mixture(world, tmp_path) -> None:
    out = tmp_path / "out"
    words = [str(word) for word in FOLDERS["export"](world, out)]
    assert main(words) == 0
    (out / "thesis.txt").write_text("theirs")
    before = snapshot(out)
    code = (
        "import os, sys, hpm_video.files as f\n"
        "replace, left = os.replace, [int(sys.argv[1])]\n"
        "def count(a, b):\n"
        "    if str(b).endswith('.draft' + os.path.splitext(str(b))[1]): left[0] -= 1\n"
        "    if left[0] == 0: os.kill(os.getpid(), 9)\n"
        "    replace(a, b)\n"
        "f.os.replace = count\n"
        "from hpm_video.cli import main\n"
        "main(sys.argv[2:])"
    )
    subprocess.run([sys.executable, "-c", code, "2", *words], capture_output=True)
    assert not (out / "config.json").exists(), "killed before the first file was replaced, or after the last"
    assert (out / "thesis.txt").read_text() == "theirs"
    assert main(words) == 0
    assert snapshot(out).keys() == before.keys()


def test_labels_that_are_not_there_name_the_command_that_makes_them(world, tmp_path, capfd) -> None:
    """A folder, a manifest without classes, and one whose rows have no label."""
    rows, none = [Row(f"{n}.mkv", n % 2) for n in range(4)], [Row(f"{n}.mkv", -1) for n in range(8)]
    splits = {"train": none[:6], "validation": none}
    without = write_manifest(tmp_path / "without", "none", world.labelled, splits, [])
    some = write_manifest(
        tmp_path / "some", "some", world.labelled, splits | {"train": [*rows, *none[4:6]]}, ["x", "y"]
    )
    given = [f"init.weights={world.run}", f"train.output={tmp_path / 'out'}", *SHAPE, "optim.batch_size=4"]
    commands = [["score", world.run], ["knn", world.run], ["probe", world.run], ["finetune", *given]]
    commands += [["test", world.tuned]]
    watched = ["pretrain", *SHAPE, *PRETRAIN, "train.knn_clips=4", f"train.output={tmp_path / 'out'}"]
    for root in (world.videos, without, some):
        for command in [*commands, watched]:
            told = refused([*command, f"data.root={root}"], capfd)
            assert "label" in told and "hpm-video data folder" in told, told
            assert not (tmp_path / "out").exists()

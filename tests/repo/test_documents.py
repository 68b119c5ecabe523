"""Every command line of every document is run, on small real things in place of DIR, ROOT, RUN and the like.

Run in this process: what README.md, the README of each data set, the recipes' YAML files and the scripts show; commands that
differ only in a path once (all of them by a slow test). Only parsed (options, keys, paths): `make`, the benchmarks and the
other scripts (minutes to hours), doctor (tests/profiling/test_doctor.py), lines with `...`, and bare names of commands. deepspeed's own part
of a line is run by a slow test; without it a script is one process.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hpm_video import commands
from hpm_video.cli import main, parse_command
from hpm_video.config import load_config, load_finetune_config

ROOT = Path(__file__).parents[2]
PROGRAM = re.compile(r"(?:\.venv/bin/)?(?:hpm-video|deepspeed|python3?|torchrun|make)\s+\S|scripts/\w+\.sh\s+\S")
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(
    r"^```\{.*?^```\n", re.MULTILINE | re.DOTALL
)  # contents, and cells of notebooks: tests/api/test_pages.py
SIZES = (
    "data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=1 optim.batch_size=4 train.steps=1 engine.precision=fp32 "
    "engine.num_threads=1"
).split()
PRETRAIN_SIZES = (
    "model.patch_px=4 model.width=32 model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 "
    "model.decoder_depth=1 model.predictor_depth=1 mask.ratio=0.75 train.num_pictures=1"
).split()
FINETUNE_SIZES = ["test.num_clips=1", "test.num_crops=1"]
SETS = {"in1k": "imagenet1k", "k400": "kinetics400"}  # how scripts and recipes call a set -> its folder in datasets/


class Command(NamedTuple):
    file: str  # the document it stands in
    text: str

    def data_set(self) -> str:
        """The folder of datasets/ whose files this command is about."""
        for text in (self.text, self.file):
            found = re.search(
                r"datasets/(\w+)/|hpm-video data (\w+)|_(in1k|k400|ucf101|hmdb51|ssv2)|(in1k|k400)_vit", text
            )
            if found:
                name = next(group for group in found.groups() if group)
                return SETS.get(name, name)
        return "ssv2"


def list_documents() -> Iterator[Path]:
    for pattern in ("*.md", "docs/**/*.md", "datasets/*/README.md", "benchmarks/**/*.md"):
        yield from sorted(ROOT.glob(pattern))
    for folder in ("scripts", "datasets", "configs", "benchmarks", "hpm_video"):
        for suffix in ("py", "sh", "yaml"):
            yield from sorted(ROOT.glob(f"{folder}/**/*.{suffix}"))


def read(file: Path) -> str:
    return DIRECTIVE.sub("", file.read_text(encoding="utf-8"))


def list_commands() -> list[Command]:
    """Every command line of a fenced block, of a comment, or between backticks; each text once for each data set."""
    found: dict[tuple[str, str], Command] = {}
    for file in list_documents():
        text = read(file)
        lines = re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
        if file.suffix == ".md":
            lines += [line.split("  #")[0] for block in FENCED.findall(text) for line in block.splitlines()]
        else:
            lines += [re.split(r"\s{3,}\(", line)[0] for line in re.findall(r"^#\s{2,}(\S.*)$", text, re.MULTILINE)]
        for line in (line.strip() for line in lines):
            if PROGRAM.match(line):
                command = Command(str(file.relative_to(ROOT)), line.removeprefix(".venv/bin/"))
                found.setdefault((command.text, command.data_set()), command)
    return list(found.values())


def split(text: str) -> list[str]:
    """The words; what is optional is given, but for [KEY=VALUE ...]."""
    return shlex.split(text.replace("[KEY=VALUE ...]", "").replace("[", "").replace("]", ""))


def signature(command: Command) -> str:
    """The same for commands that differ only in what stands for a path or a value, which are run once."""
    text = re.sub(r" train\.output=\S+| --num_\w+ \d+", "", command.text)
    words = [re.sub(r"=.*", "=", word) for word in split(text)]
    return " ".join("X" if re.match(r"([A-Z]+|runs/.*|.*\\.npz)$", word) else word for word in sorted(words))


COMMANDS = list_commands()
RUNNABLE = re.compile(
    r"hpm-video (?!doctor|data NAME|.*COMMAND|.*--dry-run|.*--yardstick)|.*\b(scripts/(pretrain|finetune)\w*\.(py|sh)|datasets/\w+/prepare\.py)"
)
# --yardstick needs weights from the network: tests/evals/frozen/test_yardsticks.py runs it with weights of its own.
# Published rows (docs/reproduce.md); run by tests/weights/test_export.py and tests/evals/frozen/test_feature_file.py, or with
# another set by a command beside it
SLOW = re.compile(
    r".* sweep |.*(SSV2|K400|IN1K)\b|.*--to hf|.* features |.*finetune_(hmdb51|ucf101)|.*finetune.*vitl|hpm-video (data|finetune) "
)


def is_run(command: Command) -> bool:
    """Return whether a line is whole, and of a command that takes seconds on small data; a new script is only parsed."""
    whole = not re.search(r"\{|--help|\.\.\.|torchrun", command.text) and len(command.text.split()) > 2
    return whole and RUNNABLE.match(command.text) is not None


RUN = list({signature(command): command for command in reversed(COMMANDS) if is_run(command)}.values())[::-1]
# Pages of the site that show a command with other keys than README.md does
VARIANTS = ("docs/guides/", "docs/explanations/", "docs/get_started.md", "docs/index.md")
QUICK = [c for c in RUN if not SLOW.match(c.text) and not c.file.startswith(VARIANTS)]
REST = [command for command in COMMANDS if command not in QUICK]


def is_image(words: list[str]) -> bool:
    return any("in1k" in word or "compare_images" in word for word in words)


class Workspace:
    """A folder in which commands are typed: the project's own folders, small data, a pretrained and a fine-tuned run."""

    def __init__(self, folder: Path, things) -> None:
        self.folder, self.things = folder, things
        for name in ("scripts", "configs", "datasets", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copy(things.videos[0], folder / "video.mp4")
        things.put_videos(folder / "videos", "a.mkv", "b.mp4", "more/c.webm")
        (folder / "scan_NAME").symlink_to(folder / "videos")  # the scan itself is a command of its own
        videos, labelled = f"data.root={folder / 'videos'}", f"data.root={things.root_of('ssv2')}"
        for run, key in (("mine", "mask.mode=hpm"), ("other", "mask.mode=random")):
            keys = [*SIZES, *PRETRAIN_SIZES, "data.num_frames=4", key, videos]
            assert main(["pretrain", *keys, f"train.output={folder / 'runs' / run}"]) == 0
        start = [f"init.weights={folder / 'runs/mine'}", f"train.output={folder / 'runs/finetune_ssv2'}"]
        assert main(["finetune", *SIZES, *FINETUNE_SIZES, labelled, *start]) == 0
        (folder / "runs" / "pretrain").symlink_to(folder / "runs" / "mine")
        self.prepared: dict[str, Path] = {}

    def prepare(self, name: str) -> Path:
        """The files of a set with the manifest that its recipe writes, once."""
        if name not in self.prepared:
            root = self.prepared[name] = self.things.root_of(name)
            if name == "fashion_mnist":
                self.prepared[name] = self.folder / "fashion"
                run_script("datasets/fashion_mnist/prepare.py", [str(root), str(self.folder / "fashion")])
            elif name != "ssv2":
                run_script(f"datasets/{name}/prepare.py", [str(root)])
        return self.prepared[name]

    def run_of_images(self) -> Path:
        run = self.folder / "runs" / "in1k"
        if not run.is_dir():
            keys = [*SIZES, *PRETRAIN_SIZES, f"data.root={self.prepare('imagenet1k')}/manifest", f"train.output={run}"]
            run_script("scripts/pretrain_in1k.py", keys)
        return run

    def put_in(self, command: Command, out: Path) -> list[str]:
        """The words of a command, with what is here in place of its placeholders."""
        words = split(command.text)
        name, recipe = command.data_set(), "prepare.py" in command.text or words[1:2] == ["data"]
        made: dict[str, Callable[[], Path]] = {
            "ROOT": lambda: self.things.root_of(name) if recipe else self.prepare(name),
            "DIR": lambda: self.prepare("ssv2"),
            "SSV2": lambda: self.prepare("ssv2"),
            "K400": lambda: self.prepare("kinetics400"),
            "IN1K": lambda: self.things.root_of(name) if recipe else self.prepare("imagenet1k"),
            "FOLDER": lambda: (
                self.prepare("folder") if "manifest" in command.text or recipe else self.folder / "videos"
            ),
            "VIDEOS": lambda: self.folder / "videos",
            "OUT": lambda: self.prepare("fashion_mnist") if "data.root=OUT" in command.text else out / "new",
            "RUN": lambda: self.run_of_images() if is_image(words) else self.folder / "runs" / "mine",
            "FILE.gif": lambda: out / "masks.gif",
            "FILE": lambda: ROOT / "configs/finetune/ssv2_vitb.yaml",
        }
        if "init.weights=runs/in1k" in words:
            self.run_of_images()
        if words[:2] == ["hpm-video", "prepare"]:
            made["ROOT"] = made["FOLDER"]
        if name == "imagenet1k" or "images.root" in command.text:
            made["ROOT"] = lambda: self.things.root_of(name) if recipe else self.prepare("imagenet1k")
        words = [re.sub(r"init\.weights=runs/(ssv2|k400|in1k)_\w+", "init.weights=RUN", word) for word in words]
        pattern = re.compile(rf"\b({'|'.join(re.escape(name) for name in made)})\b")
        return [pattern.sub(lambda found: str(made[found[1]]()), word) for word in words]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, make_things) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("typed here")
    before, files = Path.cwd(), list_source()
    os.chdir(folder)
    try:
        yield Workspace(folder, make_things(folder))
    finally:
        os.chdir(before)
    assert list_source() - files == set(), "a command wrote beside the project's own files"


def list_source() -> set[str]:
    """The files that the commands of this test could write next to: those of git, and those it does not know."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return set(subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines())


def run_script(file: str, words: list[str]) -> None:
    before, sys.argv = sys.argv, [file, *words]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / file), run_name="__main__")
    finally:
        sys.argv = before
    assert ended.value.code == 0


def expand(words: list[str], folder: Path) -> list[str]:
    """What scripts/finetune_X.sh runs: python is asked to print its words."""
    (folder / "python").write_text('#!/bin/sh\n[ "$1" = -c ] && echo 0 || printf \'%s\\n\' "$@"\n')
    (folder / "python").chmod(0o755)
    env = {**os.environ, "PYTHON": str(folder / "python")}
    done = subprocess.run(["sh", *words], capture_output=True, text=True, env=env, check=True)
    script, *more = done.stdout.splitlines()
    return ["python", str(Path(script).resolve().relative_to(ROOT)), *more]


def add_sizes(words: list[str], tmp_path: Path) -> list[str]:
    """What makes a command small, and keeps its output apart from that of others."""
    text = " ".join(words)
    if re.search("synthetic/prepare.py|data synthetic", text):
        return [*words, "--train", "12", "--validation", "12"]
    if "prepare.py" in text or words[1] == "data":
        return [*words, "--out", str(tmp_path / "manifest")] if "fashion" not in text else words
    if "scripts/finetune.py" in text or words[1] == "finetune":
        return [*words, *SIZES, *FINETUNE_SIZES, f"train.output={tmp_path / 'run'}"]
    if words[1] == "sweep":
        small = [*SIZES, *PRETRAIN_SIZES, "data.num_frames=4", "--out", str(tmp_path / "sweep")]
        return [*words[:2], *small, *words[2:]]
    if "scripts/pretrain" in text or words[:2] == ["hpm-video", "pretrain"]:
        frames = [] if is_image(words) else ["data.num_frames=4"]
        return [*words, *SIZES, *PRETRAIN_SIZES, *frames, f"train.output={tmp_path / 'run'}"]
    if words[1] in ("scan", "prepare", "pack"):
        return [*words, "--workers", "1"]
    if words[1] == "probe":
        return [*words, "--epochs", "1"]
    return words


def type_command(words: list[str], tmp_path: Path) -> None:
    """Run a command to its end and require that it is done."""
    if words[0].endswith(".sh"):
        words = expand(words, tmp_path)
    words = add_sizes(words, tmp_path)
    if words[0] == "hpm-video":
        assert main(words[1:]) == 0
        return
    first = next(number for number, word in enumerate(words) if word.endswith(".py"))
    run_script(words[first], words[first + 1 :])


@pytest.mark.parametrize("command", QUICK, ids=lambda c: c.text)
def test_a_command_runs_as_it_is_shown(command, workspace, tmp_path) -> None:
    type_command(workspace.put_in(command, tmp_path), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in REST if is_run(c)], ids=lambda c: c.text)
def test_the_same_commands_elsewhere_run_too(command, workspace, tmp_path) -> None:
    type_command(workspace.put_in(command, tmp_path), tmp_path)


def check_keys(words: list[str], load) -> None:
    keys = [re.sub(r"=[A-Z]+$", "=x", word) for word in words if re.match(r"[a-z]+\.?\w*=", word)]
    load(None, ["data.root=x", "train.output=x", *(key for key in keys if "KEY=" not in key)], check=False)


def check_options(words: list[str], file: Path) -> None:
    """A script that takes minutes: it exists, and so does each option that is given."""
    text = file.read_text(encoding="utf-8")
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in text, f"{file.name} has no {word}"


def check_ours(words: list[str]) -> None:
    """A line of hpm-video: the command exists, and its own parser takes the words."""
    assert words[0] in (*commands.COMMANDS, "--help", "COMMAND")
    if len(words) > 1 and "--help" not in words:
        parse_command(words[0], words[1:])


@pytest.mark.parametrize("command", REST, ids=lambda c: c.text)
def test_a_command_that_is_not_run_can_be_parsed(command) -> None:
    words = split(re.sub(r"\.\.\.|\{.*\}", "x", command.text))
    if words[0] == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in words[1:])
    elif words[0] == "hpm-video":
        check_ours(words[1:])
    elif of_module := {"-m", "--module"} & set(words):
        assert words[words.index(of_module.pop()) + 1].split(".")[0] == "hpm_video"
    else:
        script = next(word for word in words if word.endswith((".py", ".sh")))
        assert (ROOT / script).is_file()
        if script == "benchmarks/report.py" and "--recipes" not in words:
            check_ours(["report", *words[2:]])
        elif not RUNNABLE.match(command.text):
            check_options(words, ROOT / script)
        check_keys(words, load_finetune_config if "finetune" in script else load_config)


def test_no_command_is_overlooked() -> None:
    """The lists above see what a reader sees: each fenced line that names a program of ours is in one of them."""
    texts = {command.text for command in COMMANDS}
    assert len(texts) > 60 and len(QUICK) > 25
    for file in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("datasets/*/README.md"))):
        for block in FENCED.findall(read(file)):
            for line in block.splitlines():
                ours = re.search(r"hpm-video|deepspeed|python |\.sh|\.py\b|^make", line)
                assert not ours or line.split("  #")[0].strip().removeprefix(".venv/bin/") in texts, line


LAUNCHED = [c for c in COMMANDS if c.text.startswith("deepspeed") and is_run(c) and c.file.endswith(".md")]


@pytest.mark.slow
@pytest.mark.parametrize("command", LAUNCHED, ids=lambda c: c.text)
def test_deepspeed_runs_what_is_shown(command, workspace, tmp_path, run_here) -> None:
    words = add_sizes(workspace.put_in(command, tmp_path), tmp_path)
    done = run_here("deepspeed", *words[next(n for n, word in enumerate(words) if word.endswith(".py")) :])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

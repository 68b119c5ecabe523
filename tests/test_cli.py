"""The door: what it imports, closed pipes, Ctrl-C, options and keys in any order."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpm_video import cli, commands
from hpm_video.cli import main, parse_command
from hpm_video.commands import COMMANDS, find_command
from hpm_video.train.metrics import format_line

QUICK = [
    ["--help"],
    ["--version"],
    ["nosuchcommand"],
    ["score"],
    ["probe", "x", "--nosuchoption"],
    ["pretrain", "nokey=1"],
    ["pretrain", "data.root=x", "mask.ratio=2"],
    ["pretrain", "data.root=x", "data.num_frames=15"],
    ["finetune", "data.root=x", "model.poling=cls"],
    *([name, "--help"] for name in COMMANDS),
    *([name, "nowhere"] for name in ("show", "score", "knn", "probe", "test", "export", "report")),
    ["predict", "nowhere", "x.mp4"],
    ["features", "x.mp4", "--run", "nowhere", "--out", "x.npz"],
]


def test_what_needs_no_model_imports_no_torch() -> None:
    """All in one process of its own: each is answered without the libraries that take seconds."""
    code = (
        "import contextlib, io, sys\n"
        "from hpm_video.cli import main\n"
        f"for words in {QUICK!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        try:\n"
        "            status = main(words)\n"
        "        except SystemExit as end:\n"
        "            status = end.code\n"
        "    assert status == (0 if words[-1] in ('--help', '--version') else status) and status in (0, 1, 2), words\n"
        "    assert (status == 0) or 'error: ' in err.getvalue(), words\n"
        "    heavy = {'torch', 'torchvision', 'matplotlib', 'pyarrow', 'av', 'deepspeed'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_for_data_start_without_torch() -> None:
    """It takes seconds to import, in each of their processes."""
    modules = (
        "preprocess.scan preprocess.transcode preprocess.pack preprocess.recipe preprocess.jobs preprocess.encode "
    )
    modules += "data.readers.read data.readers.pyav data.manifest data.shards data.store profiling.subprocess"
    code = "import sys\n" + "".join(f"import hpm_video.{name}\n" for name in modules.split())
    code += "assert not {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("probe", [["RUN"], ["--head", "attentive"], ["data.root=DIR"], ["data.num_workers=0"]]),
        ("pretrain", [["--config", "FILE"], ["data.root=DIR"], ["train.steps=2"]]),
        ("predict", [["RUN", "a.mp4"], ["--top", "2"], ["--every-s", "1"]]),
        ("features", [["a.mp4"], ["--run", "RUN"], ["--out", "x.npz"], ["--windows"]]),
        ("report", [["R1"], ["--vary", "mask.mode"], ["R2"]]),
        ("export", [["RUN"], ["--to", "hf"], ["--out", "x"]]),
        ("doctor", [["data.root=DIR"], ["--ranks", "2"], ["data.fps=5"]]),
        ("score", [["RUN"], ["--pool", "mean"], ["data.root=DIR"]]),
        ("pack", [["A", "B"], ["--workers", "1"]]),
    ],
)
def test_options_and_keys_in_any_order(command, words) -> None:
    def positional(given) -> dict:
        return {name: sorted(map(str, v)) if isinstance(v, list) else v for name, v in vars(given).items()}

    expected = positional(parse_command(command, list(itertools.chain(*words))))
    for order in itertools.permutations(words):
        flat = list(itertools.chain(*order))
        if command in ("probe", "score") and [w for w in flat if "=" in w or w == "RUN"][0] != "RUN":
            continue  # the run comes before its keys
        assert positional(parse_command(command, flat)) == expected, flat


TALKS = (
    "import sys; from hpm_video import cli; from hpm_video.commands import pack; "
    "pack.run = lambda given: pack.say('x' * 100000) or 0; sys.exit(cli.main(['pack', 'a', 'b']))"
)


@pytest.mark.parametrize(
    ("words", "statuses"),
    [
        (["-m", "hpm_video", "--help"], (0, 141)),
        (["-m", "hpm_video", "pretrain", "--help"], (0, 141)),
        (["-c", TALKS], (141,)),
    ],
    ids=["help", "keys", "output"],
)
def test_a_closed_pipe_is_no_traceback(words, statuses) -> None:
    """argparse itself passes over a pipe that is closed."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode in statuses and not done.stderr


def test_a_pipe_that_breaks_elsewhere_is_a_fault_of_ours(monkeypatch) -> None:
    def break_off(given) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(find_command("scan"), "run", break_off)
    monkeypatch.setattr(cli, "_is_closed", lambda stream: False)
    with pytest.raises(BrokenPipeError):
        main(["scan", "x"])


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt, as in a terminal; what a shell starts in its background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


NO_RUN = {**dict.fromkeys(("pretrain", "finetune", "doctor", "schema", "sweep"), []), "completion": ["bash"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_one_line(command, interruptible, monkeypatch, capsys) -> None:
    def wait(given) -> int:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        signal.sigtimedwait([], 5)
        return 0

    monkeypatch.setattr(find_command(command), "run", wait)
    words = {
        "predict": ["R", "x"],
        "features": ["x", "--run", "R", "--out", "x.npz"],
        "prepare": ["A", "B"],
        "pack": ["A", "B"],
    }
    assert main([command, *words.get(command, NO_RUN.get(command, ["R"]))]) == 130
    assert capsys.readouterr().err == "stopped; what was saved is kept, and the same command resumes from it\n"


def test_a_new_command_is_one_file_and_one_row(tmp_path, monkeypatch, capsys) -> None:
    """Help, arguments and exit status follow from the row and the file."""
    (tmp_path / "greet.py").write_text(
        "def add_arguments(parser):\n    parser.add_argument('name', help='who is greeted')\n\n\n"
        "def run(given):\n    print('hello', given.name)\n    return 0\n"
    )
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.setitem(COMMANDS, "greet", "greet somebody")
    assert main(["greet", "you"]) == 0 and capsys.readouterr().out == "hello you\n"
    for words, text in ((["--help"], "greet somebody"), (["greet", "--help"], "who is greeted")):
        with pytest.raises(SystemExit):
            main(words)
        assert text in capsys.readouterr().out
    sys.modules.pop("hpm_video.commands.greet")


def test_help_has_groups_and_a_wrong_name_is_corrected(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    places = [told.index(f"\n{title}:\n") for title in commands.GROUPS]
    assert places == sorted(places) and all(f"  {name} " in told and text in told for name, text in COMMANDS.items())
    assert "other:" not in told
    with pytest.raises(SystemExit) as ended:
        main(["pretran", "data.root=x"])
    assert ended.value.code == 2 and "Did you mean 'pretrain'?" in capsys.readouterr().err
    assert cli.split_command(["--local_rank=0", "test", "RUN", "--help"]) == ("test", ["RUN", "--help"])


def test_a_recipe_stands_for_its_file(monkeypatch, capsys) -> None:
    taken = []
    monkeypatch.setattr("hpm_video.api.training.run_pretraining", lambda file, keys: taken.append(file) or Stopped)
    assert main(["pretrain", "--recipe", "ssv2_vitb", "data.root=x"]) == 143
    assert cli.script_main("pretrain", Path("default.yaml"), ["data.root=x"]) == 143
    assert cli.script_main("pretrain", Path("default.yaml"), ["--recipe", "k400_vitb"]) == 143
    assert [file.name for file in taken] == ["ssv2_vitb.yaml", "default.yaml", "k400_vitb.yaml"]
    assert main(["pretrain", "--recipe", "ssv2", "data.root=x"]) == 1
    assert "Did you mean 'ssv2_vitb'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["pretrain", "--recipe", "ssv2_vitb", "--config", "x.yaml"])


class Stopped:
    """A run that a signal has stopped."""

    finished = False


def test_a_dry_run_is_what_doctor_says(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("hpm_video.commands.doctor.examine_run", lambda *words: asked.append(words) or 0)
    assert main(["pretrain", "--dry-run", "data.root=x"]) == main(["doctor", "data.root=x"]) == 0
    assert asked == [(None, ["data.root=x"]), (None, ["data.root=x"], None)]


def test_the_recipe_of_a_data_set_gets_the_words_after_it(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    assert "ssv2" in capsys.readouterr().out
    before = sys.argv
    assert main(["data", "kinetics400", "--help"]) == 0
    assert "--version {400,600,700}" in capsys.readouterr().out
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").touch()
    assert main(["data", "folder", str(tmp_path), "--unlabelled", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "manifest.json").is_file() and sys.argv is before
    assert main(["data", "kinetics", str(tmp_path)]) == 1
    assert "Did you mean 'kinetics400'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_file(name) -> None:
    module = find_command(name)
    assert module.add_arguments.__doc__ and module.run.__doc__ and module.__doc__.startswith(f"`hpm-video {name}`")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_can_be_parsed(name, capsys) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    (example,) = re.findall(rf"^example: hpm-video {name} ([^>\n]+)", capsys.readouterr().out, re.MULTILINE)
    assert parse_command(name, shlex.split(example)).command == name


@pytest.mark.parametrize("command", ["scan", "prepare"])
def test_a_list_in_place_of_a_folder_names_its_recipe(command, tmp_path, capsys) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.mp4,run\n")
    out = {"scan": ["--out", str(tmp_path / "out")], "prepare": [str(tmp_path / "out")]}[command]
    assert main([command, str(tmp_path / "list.csv"), *out]) == 1
    assert "hpm-video data csv" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_log_line_has_at_most_four_digits() -> None:
    values = {
        "loss": 0.6111111111111112,
        "pixel_loss": 1234.56789,
        "clips_per_s": 1234.5678,
        "data_wait_share": 1 / 3,
        "lr": 1 / 3,
    }
    line = format_line(3, 10, values, 61.23456)
    assert "loss 0.6111 " in line and "pixel_loss 1235" in line and "1,235 clips/s" in line and "33%" in line
    assert not re.search(r"\d\.\d{5}|\d{5}", line)
    ranked = [format_line(3, 10, {**values, "ranking_loss": loss}, 60.0) for loss in (0.0, 0.7)]
    assert "ranking_loss" not in ranked[0] and "ranking_loss 0.7000" in ranked[1]  # 0: the run has no predictor


def test_files_that_were_written_are_named(make_run, tmp_path, monkeypatch, capsys) -> None:
    run, _ = make_run()
    monkeypatch.setattr("hpm_video.weights.export.export", lambda run, to, out: run / "encoder.safetensors")
    monkeypatch.setattr("hpm_video.report.pictures.draw_run", lambda run, out: [out / "a.png", out / "b.png"])
    assert main(["export", str(run)]) == main(["show", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote {run / 'encoder.safetensors'}"
    assert (
        lines[1:3] == [f"wrote {run / 'pictures' / name}" for name in ("a.png", "b.png")]
        and "Next: hpm-video" in lines[3]
    )

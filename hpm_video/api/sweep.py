"""Pretrain once for each combination of values, each run in its own process, then score and compare the runs."""

import itertools
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hpm_video.api.training import check_keys
from hpm_video.config import load_config
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.own_folder import own_folder
from hpm_video.runs.results import read_results

MADE_BY = "hpm-video sweep"
SEED = "train.seed"  # runs that differ only in it repeat one variant
OPENING, CLOSING = "[{(", "]})"


class Sweep(NamedTuple):
    """Hold the varied keys, and the settings of each run by the name of its folder."""

    varied: list[str]
    runs: dict[str, list[str]]


def plan_sweep(overrides: Sequence[str]) -> Sweep:
    """Return the runs for KEY=VALUE and KEY=VALUE,VALUE words. Raises UserError if no key has several values."""
    if any(word.startswith("train.output=") for word in overrides):
        raise UserError("train.output: given; expected --out, below which each run gets a folder")
    given = {key: split_values(value) for key, _, value in (word.partition("=") for word in overrides)}
    varied = [key for key, values in given.items() if len(values) > 1]
    if not varied:
        raise UserError("sweep: no key has several values; expected one such as mask.ratio=0.75,0.9")
    fixed = [word for word in overrides if word.partition("=")[0] not in varied]
    runs: dict[str, list[str]] = {}
    for values in itertools.product(*(given[key] for key in varied)):
        chosen = dict(zip(varied, values, strict=True))
        name = "_".join(f"{_leaf(key, varied)}-{_plain(value)}" for key, value in chosen.items())[:120]
        name = name if name not in runs else f"{name}_{len(runs)}"
        runs[name] = [*fixed, *(f"{key}={value}" for key, value in chosen.items())]
    return Sweep(varied, runs)


def split_values(text: str) -> list[str]:
    """Return the values between the commas of a text; commas inside brackets and quotes belong to their value."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        quote = "" if letter == quote else letter if not quote and letter in "'\"" else quote
        depth += 0 if quote else (letter in OPENING) - (letter in CLOSING)
        if letter == "," and not quote and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return values


def _leaf(key: str, varied: Sequence[str]) -> str:
    """Return the last word of a key, or the whole key if another one has the same last word."""
    leaf = key.rpartition(".")[2]
    return leaf if sum(other.rpartition(".")[2] == leaf for other in varied) == 1 else key


def _plain(value: str) -> str:
    """Return a value as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", value).strip("-.") or "none"


def run_sweep(  # noqa: PLR0913
    overrides: Sequence[str], out: Path, file: Path | None, scored_on: Path | None, launcher: str | None, compare: str
) -> Iterator[str]:
    """Train the missing runs, score them on the labelled set `scored_on`, and write OUT/report; yield a line for each run.

    All configurations are checked before the first run. Raises UserError for a wrong one, or if a run fails.
    """
    sweep = plan_sweep(overrides)
    folders = {name: out / name for name in sweep.runs}
    words = {name: [*keys, f"train.output={folders[name]}"] for name, keys in sweep.runs.items()}
    for keys in words.values():
        check_keys(load_config, file, keys)
    start = [*(shlex.split(launcher) if launcher else [sys.executable]), "-m", "hpm_video"]
    settings = [] if file is None else ["--config", str(file)]
    with own_folder(out, MADE_BY) as own:
        write_json(own.file("sweep.json"), sweep._asdict())  # runs and report have their own folders with marks
        for number, (name, keys) in enumerate(words.items(), 1):
            yield f"{number} of {len(words)}: {name}"
            _run([*start, "pretrain", *settings, *keys], name)
            if scored_on is not None and "knn" not in read_results(folders[name])["scores"]:
                _run([sys.executable, "-m", "hpm_video", "score", str(folders[name]), f"data.root={scored_on}"], name)
        from hpm_video.report.comparison_report import write_comparison

        vary = [key for key in sweep.varied if key != SEED]
        for written in write_comparison(list(folders.values()), out / "report", vary=vary, compare=compare):
            yield f"wrote {written}"


def _run(words: Sequence[str], name: str) -> None:
    """Run a command to its end. Raises UserError if its exit status is not 0."""
    status = start_command(words)
    if status:
        raise UserError(f"{name}: exit status {status}; its message is above. Rerun the same command to resume")


def start_command(words: Sequence[str]) -> int:
    """Run a command and return its exit status. Pass Ctrl-C and SIGTERM on, and wait until it has saved."""
    process = subprocess.Popen(words)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)

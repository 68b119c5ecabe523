"""One door: `hpm-video --help` lists the commands."""

import argparse
import contextlib
import os
import select
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hpm_video import __version__
from hpm_video.errors import UserError
from hpm_video.evals.summary import tell_both, tell_score
from hpm_video.options import parse_command, split_command
from hpm_video.runs.kind import check_finished, check_run
from hpm_video.terminal import PlainStream, printable

CLOSED_PIPE = 141  # as the shell counts a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a fault the user can mend (one message, no traceback), 2 wrong arguments, 130 Ctrl-C, 141 a
    closed pipe (`| head`), 143 stopped by a signal."""
    return _guard(lambda: _run(parse_command(*split_command(arguments, __version__))))


def script_main(command: str, default_config: Path | None = None, arguments: Sequence[str] | None = None) -> int:
    """The scripts' entry: `deepspeed scripts/pretrain_ssv2.py [--config FILE] KEY=VALUE ...`. command: pretrain, finetune."""

    def run() -> int:
        given = parse_command(command, arguments, prog=os.path.basename(sys.argv[0]))
        given.config = given.config or default_config
        return _run(given)

    return _guard(run)


_LESS_MEMORY = {  # training itself names its micro batch
    "pretrain": "preset=small, preset=tiny or a smaller model",
    "test": "test.batch_size=1, or end other programs that hold memory",
    "pack": "fewer --workers",
    "scan": "fewer --workers",
    "prepare": "fewer --workers",
}


def _describe_fault(error: Exception, command: str) -> str | None:
    """Return what to tell of memory that ran out, or of a disk where it is not said better; None for any other error."""
    from hpm_video.costs.memory import describe_shortage

    if told := describe_shortage(error):
        return f"{told}. Try {_LESS_MEMORY.get(command, 'a smaller model')}"
    if not isinstance(error, OSError) or isinstance(error, ConnectionError):
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or error}"


def _guard(run: Callable[[], int]) -> int:
    """Turn faults, Ctrl-C and closed pipes into a line and an exit status."""
    try:
        try:
            with contextlib.redirect_stdout(PlainStream(sys.stdout)):
                status = run()
        finally:
            sys.stdout.flush()  # here, not at the end of the interpreter, where a closed pipe is a traceback
    except UserError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        status = 1
    except BrokenPipeError:
        if not _is_closed(sys.stdout):
            raise  # a pipe of another kind
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = CLOSED_PIPE
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was saved is kept, and the same command resumes from it\n")
        status = 130
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Do not wait for ranks that may still be in a collective, nor for the threads of the process group, which abort
        # the interpreter's end now and then ("terminate called without an active exception"). All files are closed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_closed(stream: TextIO) -> bool:
    """Return whether nobody reads the other end of a pipe any more."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(given: argparse.Namespace) -> int:
    from hpm_video.train.metrics import start_logging

    start_logging(int(os.environ.get("RANK", "0")))
    commands = {"pretrain": _pretrain, "finetune": _finetune, "score": _score, "show": _show, "export": _export}
    commands |= {"report": _report, "scan": _scan, "prepare": _prepare, "pack": _pack}
    commands |= {"knn": _knn, "probe": _probe, "features": _features}
    commands |= {"test": _test, "predict": _predict, "doctor": _doctor}
    try:
        return commands[given.command](given)
    except (MemoryError, RuntimeError, OSError) as error:
        told = _describe_fault(error, given.command)
        if told is None:
            raise
        raise UserError(told) from error


def _say(text: str) -> None:
    """Write whole lines, at once."""
    _write(text if text.endswith("\n") or not text else f"{text}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _is_first() -> bool:
    """Return whether this process is the one of its run that talks."""
    return os.environ.get("RANK", "0") == "0"


def _keys(given: argparse.Namespace, load: Callable[..., Any]) -> list[str]:
    """The keys of a training command, with its default output; wrong ones are told before anything slow is imported."""
    keys = list(given.overrides)
    if not any(key.startswith("train.output=") for key in keys):
        keys.insert(0, f"train.output=runs/{given.command}")
    found = load(given.config, keys, check=False)
    if found.init.weights is None:  # else the weights have a say in the combinations
        load(given.config, keys)
    return keys


def _pretrain(given: argparse.Namespace) -> int:
    from hpm_video.config import load_config

    keys = _keys(given, load_config)
    from hpm_video.train.pretrain import pretrain, pretrain_config

    config = pretrain_config(given.config, keys)
    health = None
    if config.train.knn_clips:
        from hpm_video.data.splits import LABELS_HINT
        from hpm_video.evals.frozen.knn_monitor import make_knn_health

        health = make_knn_health(config, config.train.knn_clips)
        if health is None:
            raise UserError(
                f"train.knn_clips: {config.data.root} has no labels, no validation split or a single class; expected 0, or data "
                f"with both. {LABELS_HINT}"
            )
    if not pretrain(config, health):
        return 143
    if _is_first():
        run = shlex.quote(config.train.output)
        _say(f"Next: hpm-video show {run}; with labelled videos: hpm-video score {run} data.root=DIR")
    return 0


def _finetune(given: argparse.Namespace) -> int:
    from hpm_video.config import load_finetune_config

    keys = _keys(given, load_finetune_config)
    from hpm_video.train.finetune import finetune, finetune_config

    config = finetune_config(given.config, keys)
    if not finetune(config):
        return 143
    return _examine(Path(config.train.output), [])


def _test(given: argparse.Namespace) -> int:
    check_run(given.run, "finetune")
    return _examine(given.run, given.overrides)


def _examine(run: Path, overrides: Sequence[str]) -> int:
    from hpm_video.evals.finetuned.multi_view_test import examine_run, tell_results

    results = examine_run(run, overrides)
    if results:  # of rank 0
        views = {name: results["test"][name] for name in ("split", "num_clips", "num_crops", "average", "rule")}
        kept = _keep(run, {"test": results["scores"] | views})
        name = shlex.quote(str(run))
        _say(tell_results(results) + kept + f"Next: hpm-video predict {name} VIDEO, or hpm-video report {name}")
    return 0


def _predict(given: argparse.Namespace) -> int:
    check_run(given.run, "finetune")
    from hpm_video.evals.finetuned.predict import Predictor, list_samples, predict_videos

    videos = list_samples(given.videos)
    predictor = Predictor(given.run, given.window_s, given.every_s)
    failed = False
    for answer in predict_videos(predictor, videos, given.out or given.run / "predictions", given.top):
        if isinstance(answer, str):
            _say(answer)
        else:
            failed = True
            sys.stderr.write(f"error: {printable(str(answer))}\n")
    return int(failed)


def _score(given: argparse.Namespace) -> int:
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.probe import open_exam, score_knn, score_linear

    exam = open_exam(given.run, given.overrides)
    found = [score_knn(exam, given.pool), score_linear(exam, given.pool)]
    _tell(given.run, found, tell_both(*found))
    return 0


def _knn(given: argparse.Namespace) -> int:
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.probe import open_exam, score_knn

    found = score_knn(open_exam(given.run, given.overrides), given.pool)
    _tell(given.run, [found], tell_score(found))
    return 0


def _probe(given: argparse.Namespace) -> int:
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.probe import open_exam, score_attentive, score_linear

    exam, found = open_exam(given.run, given.overrides), []
    if given.head != "attentive":
        found.append(score_linear(exam, given.pool))
        _say(tell_score(found[-1]))
    if given.head != "linear":
        found.append(score_attentive(exam, given.epochs, given.cache_gib))
        _say(tell_score(found[-1]))
    _tell(given.run, found, "")
    return 0


def _keep(run: Path, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Put scores into RUN/results.json, where reports look, and say so; a run that has not finished has none yet."""
    from hpm_video.runs.results import FILE, add_scores

    if not (run / FILE).is_file():
        return (
            f"Not in a report yet: {run} has no {FILE}, as the run has not finished. Rerun the command that started it, then "
            "this one\n"
        )
    for name, found in scores.items():
        add_scores(run, name, found)
    return f"wrote {run / FILE} ({', '.join(f'scores.{name}' for name in scores)})\n"


def _tell(run: Path, found: Sequence[Mapping[str, Any]], text: str) -> None:
    """Say and keep scores; what describes the data and the machine is in their files."""
    kept = ("top1", "top1_interval", "top5", "mean_class_accuracy", "chance", "num_test", "pooling")
    _say(text + "".join(f"wrote {scores['file']}\n" for scores in found))
    _say(_keep(run, {scores["head"]: {name: scores[name] for name in kept if name in scores} for scores in found}))
    _say(f"Next: hpm-video report {shlex.quote(str(run))}")


def _features(given: argparse.Namespace) -> int:
    check_run(given.run, "pretrain")
    from hpm_video.evals.frozen.feature_file import write_features

    _say(write_features(given.videos, given.run, given.out, given.pool, given.windows, given.stride_s))
    _say("What the file holds: hpm-video features --help")
    return 0


def _show(given: argparse.Namespace) -> int:
    check_run(given.run, "pretrain")
    from hpm_video.report.pictures import draw_run

    for file in draw_run(given.run, given.out or given.run / "pictures"):
        _say(f"wrote {file}")
    _say(f"Next: hpm-video score {shlex.quote(str(given.run))} data.root=DIR, with labelled videos")
    return 0


def _export(given: argparse.Namespace) -> int:
    check_run(given.run)
    from hpm_video.weights.export import export

    _say(f"wrote {export(given.run, given.to, given.out)}")
    if given.to != "safetensors":
        _say(f"How to use it: {(given.out or given.run / given.to) / 'README.md'}")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    try:
        from hpm_video.profiling.doctor import examine
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"a library that every command needs does not load: {type(error).__name__}: {reason}; expected the ones of "
            "pyproject.toml (pip install hpm-video)"
        ) from error

    return int(bool(examine(_write, given.config, given.overrides, given.ranks)))


def _report(given: argparse.Namespace) -> int:
    for run in given.runs:
        check_finished(run)
    from hpm_video.report.comparison_report import write_comparison

    how = {"shared": given.shared, "vary": given.vary, "group": given.group, "compare": given.compare}
    for file in write_comparison(given.runs, given.out, **how):
        _say(f"wrote {file}")
    return 0


def _pack(given: argparse.Namespace) -> int:
    from hpm_video.config import DataConfig
    from hpm_video.preprocess.pack import pack

    pack(DataConfig(root=given.root), given.out, given.samples_per_shard, given.seed, given.workers)
    _say(f"wrote {given.out}\nNext: hpm-video pretrain data.root={shlex.quote(str(given.out))}")
    return 0


def _scan(given: argparse.Namespace) -> int:
    from hpm_video.preprocess.scan import scan
    from hpm_video.runs.machine import num_free_cores

    out = given.out or Path(f"scan_{given.root.resolve().name}")
    num_workers = given.workers or num_free_cores()
    _say(scan(given.root, out, given.full, given.images, num_workers, given.time_limit))
    return 0


def _prepare(given: argparse.Namespace) -> int:
    from hpm_video.preprocess.transcode import prepare
    from hpm_video.runs.machine import num_free_cores

    num_workers = given.workers or num_free_cores()
    how = {"num_workers": num_workers, "time_limit_s": given.time_limit, "sample_only": given.sample_only}
    _say(prepare(given.root, given.out, given.short_side, given.gop, given.fps, **how))
    return 0

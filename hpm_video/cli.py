"""One door: `hpm-video --help` lists the commands."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpm_video import __version__
from hpm_video.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a fault the user can mend (one message, no traceback), 2 wrong arguments, 130 Ctrl-C, 143 stopped by a signal."""
    parser = argparse.ArgumentParser(prog="hpm-video", description="Hard Patches Mining for video")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed --module hpm_video test RUN
    commands = parser.add_subparsers(dest="command", required=True)
    pretraining = commands.add_parser("pretrain", help="train an encoder on videos without labels", **_KEYS_STYLE)
    _add_training(pretraining, "pretrain")
    tune = commands.add_parser("finetune", help="train a pretrained encoder on labels, then test it", **_KEYS_STYLE)
    _add_training(tune, "finetune")
    test = commands.add_parser(
        "test", help="several views of each video of a labelled split, on any number of processes"
    )
    test.add_argument("run", type=Path, help="folder of a fine-tuning run")
    test.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="data.*, test.* and engine.* keys, as in finetune"
    )
    _add_predict(commands.add_parser("predict", help="what a fine-tuned run says of videos; of long ones over time"))
    _add_scores(commands)
    _add_features(commands.add_parser("features", help="features of any videos, in one file", **_KEYS_STYLE))
    show = commands.add_parser("show", help="pictures of a run: masks, reconstructions, difficulty, curves")
    show.add_argument("run", type=Path)
    show.add_argument("--out", type=Path, help="folder for the PNG files (RUN/pictures)")
    export = commands.add_parser(
        "export", help="write the weights of the latest checkpoint of a run: for this program, or checked for another"
    )
    export.add_argument("run", type=Path)
    export.add_argument(
        "--to",
        choices=["safetensors", "hf", "timm", "videomae", "onnx"],
        default="safetensors",
        help="safetensors (RUN/encoder.safetensors or classifier.safetensors), hf (VideoMAE of transformers), timm (images), "
        "videomae (the names of VideoMAE's own files), onnx",
    )
    export.add_argument("--out", type=Path, help="folder to write, but for safetensors (RUN/hf, RUN/timm, ...)")
    _add_doctor(commands.add_parser("doctor", help="what works on this machine, and what a configuration costs on it"))
    _add_report(commands.add_parser("report", help="compare finished runs: tables, curves, scores against compute"))
    _add_scan(commands.add_parser("scan", help="find the videos of a folder that cannot be read, and why"))
    _add_prepare(commands.add_parser("prepare", help="make a training copy: small videos that are fast to read"))
    _add_pack(commands.add_parser("pack", help="copy a data set into tar shards, for disks that like few files"))
    given = parser.parse_args(arguments)
    return run_command(given)


_KEYS_STYLE: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def _add_training(parser: argparse.ArgumentParser, command: str) -> None:
    from hpm_video.config import FinetuneConfig, PretrainConfig, describe_keys

    schema = FinetuneConfig if command == "finetune" else PretrainConfig
    parser.epilog = f"keys (KEY=VALUE), with defaults:\n\n{describe_keys(schema)}"
    parser.add_argument("--config", type=Path, help="YAML file with the keys that differ from the defaults")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


def _add_scores(commands: Any) -> None:
    """Three commands of one shape: a run, and the labelled set if it is another."""
    told = {
        "score": "kNN and linear probe of the frozen encoder of a run, on a labelled set",
        "knn": "kNN accuracy of the frozen encoder of a run",
        "probe": "linear or attentive probe of the frozen encoder of a run",
    }
    for name, text in told.items():
        parser = commands.add_parser(name, help=text, description=f"{text}; also written to RUN/scores")
        parser.add_argument("run", type=Path, metavar="RUN")
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data.* keys, as in pretrain")
        pooling = "features of kNN and linear probe (motion; of a model with one time step mean)"
        parser.add_argument("--pool", choices=["mean", "space", "motion", "cls"], help=pooling)
        if name == "probe":
            parser.add_argument("--head", choices=["linear", "attentive", "both"], default="both", help="both")
            parser.add_argument("--epochs", type=_positive(int), default=20, help="of the attentive probe (20)")
            tokens = (
                "attentive: most GiB of tokens kept in RUN/features; beyond it they are computed in each epoch (50)"
            )
            parser.add_argument("--cache-gib", type=_positive(float), default=50.0, help=tokens)


def _add_features(parser: argparse.ArgumentParser) -> None:
    from hpm_video.evals.layout import LAYOUT

    parser.epilog = LAYOUT
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEOS", help="files, or folders of them")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run whose encoder is used")
    parser.add_argument("--out", type=Path, required=True, help="FILE.npz or FILE.safetensors")
    parser.add_argument("--pool", choices=["mean", "space", "motion", "tokens", "cls"], default="mean", help="mean")
    parser.add_argument("--windows", action="store_true", help="sliding windows over each video, not one clip of it")
    parser.add_argument("--stride-s", type=_positive(float), help="seconds from one window's start to the next")


def _add_report(parser: argparse.ArgumentParser) -> None:
    def keys(text: str) -> list[str]:
        return [key for key in text.split(",") if key]

    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders; others are compared to the first's"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/report"), help="folder of the report (runs/report)")
    parser.add_argument("--vary", type=keys, default=[], metavar="KEY,KEY", help="what is studied: may differ")
    text = "what must be equal besides all that is: of versions, hardware, engine, ..."
    parser.add_argument("--shared", type=keys, default=[], metavar="KEY,KEY", help=text)
    parser.add_argument("--group", metavar="KEY", help="one comparison for each value of this key")
    text = "equal in all runs: clips trained on (steps), or FLOPs within 5 %% (compute)"
    parser.add_argument("--compare", choices=["steps", "compute"], default="steps", help=text)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML file of a pretraining run, to look at as well")
    parser.add_argument("--ranks", type=_positive(int), help="processes of the run, one for each GPU (the GPUs here)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in pretrain; alone: over the defaults")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="folder of a fine-tuning run")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="a file, or a folder of frames")
    parser.add_argument("--top", type=_positive(int), default=5, help="classes shown (5)")
    text = "seconds from one window to the next (the length of a window)"
    parser.add_argument("--every-s", type=_positive(float), help=text)
    text = "seconds of a window (dense sampling: a clip; segments: --every-s, else the whole video)"
    parser.add_argument("--window-s", type=_positive(float), help=text)
    parser.add_argument("--out", type=Path, help="folder for the JSON and PNG files (RUN/predictions)")


def _add_scan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of videos; nothing is written into it")
    parser.add_argument("--out", type=Path, help="folder for the results (./scan_NAME)")
    parser.add_argument("--full", action="store_true", help="decode every frame, not only some of each file")
    parser.add_argument("--images", action="store_true", help="look at pictures too")
    _add_jobs(parser, time_limit_s=60)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of videos, of SSv2's layout, or of a manifest")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the copy: a data.root of the same layout")
    parser.add_argument("--short-side", type=_positive(int), default=256, help="pixels; smaller videos stay (256)")
    parser.add_argument("--gop", type=_positive(int), default=32, help="frames from one key frame to the next (32)")
    parser.add_argument("--fps", type=_positive(float), help="drop frames to come down to this rate (kept as it is)")
    parser.add_argument("--sample-only", action="store_true", help="copy 8 files, say what all would take, and stop")
    _add_jobs(parser, time_limit_s=600)


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="what data.root may be: a folder of videos, of SSv2's layout, or of a manifest")
    parser.add_argument("out", help="a folder, or a URL that fsspec can write to")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="1000 if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which training samples are packed")
    parser.add_argument("--workers", type=int, default=4, help="shards written at the same time (4)")


def _add_jobs(parser: argparse.ArgumentParser, time_limit_s: int) -> None:
    parser.add_argument("--workers", type=_positive(int), help="processes (one for each core)")
    text = f"seconds after which a file is given up ({time_limit_s})"
    parser.add_argument("--time-limit", type=_positive(float), default=time_limit_s, help=text)


def _positive(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if not 0 < (number := kind(text)) < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}; expected a number above 0")
        return number

    return read


def script_main(command: str, default_config: Path | None = None, arguments: Sequence[str] | None = None) -> int:
    """The scripts' entry: `deepspeed scripts/pretrain_ssv2.py [--config FILE] KEY=VALUE ...`. command: pretrain, finetune."""
    parser = argparse.ArgumentParser(**_KEYS_STYLE)
    _add_training(parser, command)
    given = parser.parse_intermixed_args(arguments)  # a --config after keys: the scripts give one of their own first
    given.command = command
    given.config = given.config or default_config
    return run_command(given)


def expand_paths(given: argparse.Namespace) -> None:
    """Make a leading ~ of every path argument the home folder: a shell does so only at the beginning of a word."""
    from hpm_video.files import expand_home

    for name, value in vars(given).items():
        if isinstance(value, Path) or (given.command == "pack" and name in ("root", "out")):
            setattr(given, name, type(value)(expand_home(str(value))))
        elif isinstance(value, list):
            setattr(given, name, [Path(expand_home(str(v))) if isinstance(v, Path) else v for v in value])


def run_command(given: argparse.Namespace) -> int:
    from hpm_video.train.metrics import start_logging

    start_logging(int(os.environ.get("RANK", "0")))
    expand_paths(given)
    commands = {"pretrain": _pretrain, "finetune": _finetune, "score": _score, "show": _show, "export": _export}
    commands |= {"report": _report, "scan": _scan, "prepare": _prepare, "pack": _pack}
    commands |= {"knn": _knn, "probe": _probe, "features": _features}
    commands |= {"test": _test, "predict": _predict, "doctor": _doctor}
    try:
        status = commands[given.command](given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 1
    except KeyboardInterrupt:
        if given.command in ("pretrain", "show", "export"):
            raise
        sys.stderr.write("stopped; what is done is kept, and the same command goes on from here\n")
        status = 130
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Do not wait for ranks that may still be in a collective, nor for the threads of the process group, which abort
        # the interpreter's end now and then ("terminate called without an active exception"). All files are closed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _pretrain(given: argparse.Namespace) -> int:
    from hpm_video.train.pretrain import pretrain, pretrain_config

    overrides = list(given.overrides)
    if not any(o.startswith("train.output=") for o in overrides):
        overrides.insert(0, "train.output=runs/pretrain")
    config = pretrain_config(given.config, overrides)
    health = None
    if config.train.knn_clips:
        from hpm_video.evals.health import make_knn_health

        health = make_knn_health(config, config.train.knn_clips)
        if health is None:
            raise UserError(
                "train.knn_clips: the data has no labels, no validation split or a single class; expected 0, or a manifest with "
                "both (datasets/folder/prepare.py, datasets/csv/prepare.py)"
            )
    return 0 if pretrain(config, health) else 143


def _finetune(given: argparse.Namespace) -> int:
    from hpm_video.train.finetune import finetune, finetune_config

    overrides = list(given.overrides)
    if not any(o.startswith("train.output=") for o in overrides):
        overrides.insert(0, "train.output=runs/finetune")
    config = finetune_config(given.config, overrides)
    if not finetune(config):
        return 143
    return _examine(Path(config.train.output), [])


def _test(given: argparse.Namespace) -> int:
    return _examine(given.run, given.overrides)


def _examine(run: Path, overrides: Sequence[str]) -> int:
    from hpm_video.evals.exam import examine_run, tell_results

    results = examine_run(run, overrides)
    if results:  # of rank 0
        sys.stdout.write(tell_results(results))
        views = {name: results["test"][name] for name in ("split", "num_clips", "num_crops", "average")}
        _keep(run, "test", results["scores"] | views)
    return 0


def _predict(given: argparse.Namespace) -> int:
    from hpm_video.evals.predict import Prediction, Predictor, predict_videos

    predictor = Predictor(given.run, given.window_s, given.every_s)
    failed = False
    for video, found in predict_videos(predictor, given.videos, given.out or given.run / "predictions", given.top):
        if isinstance(found, Prediction):
            said = "; ".join(f"{name} {share:.3f}" for name, share in found.overall(given.top))
            sys.stdout.write(f"{video}: {said}\n")
        else:
            failed = True
            sys.stderr.write(f"error: {found}\n")
    return int(failed)


def _score(given: argparse.Namespace) -> int:
    from hpm_video.evals.probe import score_run

    scores = score_run(given.run, given.overrides, given.pool)
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in scores.items()))
    return 0


def _knn(given: argparse.Namespace) -> int:
    from hpm_video.evals.probe import open_exam, score_knn

    _tell(given.run, score_knn(open_exam(given.run, given.overrides), given.pool))
    return 0


def _probe(given: argparse.Namespace) -> int:
    from hpm_video.evals.probe import open_exam, score_attentive, score_linear

    exam = open_exam(given.run, given.overrides)
    if given.head != "attentive":
        _tell(given.run, score_linear(exam, given.pool))
    if given.head != "linear":
        _tell(given.run, score_attentive(exam, given.epochs, given.cache_gib))
    return 0


def _keep(run: Path, name: str, scores: Mapping[str, Any]) -> None:
    """Into RUN/results.json, for reports; a run that has not ended has none yet."""
    from hpm_video.train.record import FILE, add_scores

    if (run / FILE).is_file():
        add_scores(run, name, scores)


def _tell(run: Path, scores: Mapping[str, Any]) -> None:
    """Numbers and names; what describes the data and the machine is in the file."""
    kept = ("top1", "top1_interval", "top5", "mean_class_accuracy", "chance", "num_test", "pooling")
    _keep(run, scores["head"], {name: scores[name] for name in kept if name in scores})
    shown = {name: value for name, value in scores.items() if not isinstance(value, dict)} | scores.get("chosen", {})
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in shown.items()))


def _features(given: argparse.Namespace) -> int:
    from hpm_video.evals.feature_file import write_features

    told = write_features(given.videos, given.run, given.out, given.pool, given.windows, given.stride_s)
    sys.stdout.write(told)
    return 0


def _show(given: argparse.Namespace) -> int:
    from hpm_video.evals.pictures import draw_run

    for file in draw_run(given.run, given.out or given.run / "pictures"):
        sys.stdout.write(f"{file}\n")
    return 0


def _export(given: argparse.Namespace) -> int:
    from hpm_video.train.export import export

    sys.stdout.write(f"{export(given.run, given.to, given.out)}\n")
    return 0


def _doctor(given: argparse.Namespace) -> int:
    try:
        from hpm_video.evals.doctor import examine
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"a library that every command needs does not load: {type(error).__name__}: {reason}; expected the ones of "
            "pyproject.toml (pip install hpm-video)"
        ) from error

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return int(bool(examine(say, given.config, given.overrides, given.ranks)))


def _report(given: argparse.Namespace) -> int:
    from hpm_video.evals.reports import write_comparison

    how = {"shared": given.shared, "vary": given.vary, "group": given.group, "compare": given.compare}
    for file in write_comparison(given.runs, given.out, **how):
        sys.stdout.write(f"{file}\n")
    return 0


def _pack(given: argparse.Namespace) -> int:
    from hpm_video.config import DataConfig
    from hpm_video.data.pack import pack

    pack(DataConfig(root=given.root), given.out, given.samples_per_shard, given.seed, given.workers)
    sys.stdout.write(f"{given.out}\n")
    return 0


def _scan(given: argparse.Namespace) -> int:
    from hpm_video.data.jobs import num_free_cores
    from hpm_video.data.scan import scan

    out = given.out or Path(f"scan_{given.root.resolve().name}")
    num_workers = given.workers or num_free_cores()
    sys.stdout.write(scan(given.root, out, given.full, given.images, num_workers, given.time_limit))
    return 0


def _prepare(given: argparse.Namespace) -> int:
    from hpm_video.data.jobs import num_free_cores
    from hpm_video.data.transcode import prepare

    num_workers = given.workers or num_free_cores()
    how = {"num_workers": num_workers, "time_limit_s": given.time_limit, "sample_only": given.sample_only}
    sys.stdout.write(prepare(given.root, given.out, given.short_side, given.gop, given.fps, **how))
    return 0

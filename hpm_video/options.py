"""The options of every command: what `hpm-video COMMAND --help` lists. Imports nothing that takes time."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpm_video.files import expand_home

TOLD = {  # command -> what --help says of it
    "pretrain": "train an encoder on videos without labels",
    "finetune": "train a pretrained encoder on labels, then test it",
    "test": "test a fine-tuned run: several views of each video of a labelled split, on any number of processes",
    "predict": "classify videos with a fine-tuned run; over time if they are long",
    "score": "kNN and linear probe of the frozen encoder of a run, on a labelled set",
    "knn": "kNN accuracy of the frozen encoder of a run",
    "probe": "linear or attentive probe of the frozen encoder of a run",
    "features": "features of any videos, in one file",
    "show": "pictures of a run: masks, reconstructions, difficulty, curves",
    "export": "write the weights of the latest checkpoint of a run: for this program, or checked for another",
    "doctor": "what works on this machine, and what a configuration costs on it",
    "report": "compare finished runs: tables, curves, scores against compute",
    "scan": "find the videos of a folder that cannot be read, and why",
    "prepare": "make a training copy: small videos that are fast to read",
    "pack": "copy a data set into tar shards, for disks that like few files",
}


def split_command(arguments: Sequence[str] | None, version: str) -> tuple[str, list[str]]:
    """(command, the words that belong to it). Ends the program for --help, --version and a command that does not exist."""
    parser = argparse.ArgumentParser(prog="hpm-video", description="Hard Patches Mining for video")
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed --module hpm_video test RUN
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, text in TOLD.items():
        commands.add_parser(name, help=text, add_help=False)  # for the list alone: the words after it are parsed below
    given, rest = parser.parse_known_args(arguments)
    return given.command, rest


def parse_command(command: str, words: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    """Parse the words of one command, options and keys in any order."""
    parser = argparse.ArgumentParser(
        prog=prog or f"hpm-video {command}",
        description=TOLD[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("type", Path, lambda text: Path(expand_home(text)))
    _ADDERS[command](parser)
    given = parser.parse_intermixed_args(words)
    given.command = command
    return given


def _add_pretrain(parser: argparse.ArgumentParser) -> None:
    from hpm_video.config import PretrainConfig

    _add_training(parser, PretrainConfig)


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    from hpm_video.config import FinetuneConfig

    _add_training(parser, FinetuneConfig)


def _add_training(parser: argparse.ArgumentParser, schema: type) -> None:
    from hpm_video.config.load import describe_keys

    parser.epilog = f"keys (KEY=VALUE), with defaults:\n\n{describe_keys(schema)}"
    parser.add_argument("--config", type=Path, help="YAML file with the keys that differ from the defaults")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # given by DeepSpeed's launcher
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


def _add_score(parser: argparse.ArgumentParser) -> None:
    """Three commands of one shape: a run, and the labelled set if it is another."""
    parser.description = f"{parser.description}; also written to RUN/scores and RUN/results.json"
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a pretraining run")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data.* keys, as in pretrain")
    pooling = (
        "features of kNN and linear probe (motion; of a model with one time step mean); published probes pool by mean"
    )
    parser.add_argument("--pool", choices=["mean", "space", "motion", "cls"], help=pooling)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    _add_score(parser)
    parser.add_argument("--head", choices=["linear", "attentive", "both"], default="both", help="both")
    parser.add_argument("--epochs", type=_positive(int), default=20, help="of the attentive probe (20)")
    tokens = "attentive: most GiB of tokens kept in RUN/features; beyond it they are computed in each epoch (50)"
    parser.add_argument("--cache-gib", type=_positive(float), default=50.0, help=tokens)


def _add_test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a fine-tuning run")
    keys = "data.*, test.* and engine.* keys, as in finetune"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=keys)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a pretraining run")
    parser.add_argument("--out", type=Path, help="folder for the PNG files (RUN/pictures)")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--to",
        choices=["safetensors", "hf", "timm", "videomae", "onnx"],
        default="safetensors",
        help="safetensors (RUN/encoder.safetensors or classifier.safetensors), hf (VideoMAE of transformers), timm (images), "
        "videomae (the names of VideoMAE's own files), onnx",
    )
    parser.add_argument("--out", type=Path, help="folder to write, but for safetensors (RUN/hf, RUN/timm, ...)")


def _add_features(parser: argparse.ArgumentParser) -> None:
    from hpm_video.evals.frozen.layout import LAYOUT

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
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a fine-tuning run")
    text = "a file; a folder of videos: each of them; a folder of frames: one sample"
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help=text)
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
    text = "what data.root may be: a folder of videos, of SSv2's layout, or of a manifest"
    parser.add_argument("root", type=expand_home, help=text)
    parser.add_argument("out", type=expand_home, help="a folder, or a URL that fsspec can write to")
    parser.add_argument("--samples-per-shard", type=_positive(int), default=1000, help="1000 if not given")
    parser.add_argument("--seed", type=_seed, default=0, help="of the order in which training samples are packed")
    parser.add_argument("--workers", type=_workers, default=4, help="shards written at the same time (4)")


def _add_jobs(parser: argparse.ArgumentParser, time_limit_s: int) -> None:
    parser.add_argument("--workers", type=_workers, help="processes (one for each core)")
    text = f"seconds after which a file is given up ({time_limit_s})"
    parser.add_argument("--time-limit", type=_positive(float), default=time_limit_s, help=text)


def _positive(kind: type, most: int = 1_000_000) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if not 0 < (number := kind(text)) <= most:
            raise argparse.ArgumentTypeError(f"{text[:50]}; expected a number above 0, at most {most:,}")
        return number

    read.__name__ = kind.__name__  # argparse names it where a text is not a number
    return read


_workers = _positive(int, most=1024)


def _seed(text: str) -> int:
    if not 0 <= (number := int(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:50]}; expected a number from 0 to {2**63 - 1:,}")
    return number


_ADDERS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "pretrain": _add_pretrain,
    "finetune": _add_finetune,
    "test": _add_test,
    "predict": _add_predict,
    "score": _add_score,
    "knn": _add_score,
    "probe": _add_probe,
    "features": _add_features,
    "show": _add_show,
    "export": _add_export,
    "doctor": _add_doctor,
    "report": _add_report,
    "scan": _add_scan,
    "prepare": _add_prepare,
    "pack": _add_pack,
}

"""The model card (README.md) of an exported folder: the model, its training, its scores, and the code that loads it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpm_video import __version__
from hpm_video.config import DataConfig, FinetuneConfig, PretrainConfig, RunConfig
from hpm_video.config.needs import trains_predictor
from hpm_video.errors import UserError
from hpm_video.files import write_text
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.runs.results import read_results

SIGNATURE = "Written by hpm-video"
LICENCE = (
    "Not stated: it depends on the videos, and on the weights from which the training started. Set `license` at the top of this "
    "file before you publish the folder."
)
FIGURES = ("steps", "clips", "pixel_loss", "rank_correlation", "hardness_gain", "num_bad", "num_seen")


def write_card(  # noqa: PLR0913
    folder: Path,
    run: Path,
    library: str,
    use: list[str],
    config: RunConfig,
    model: Student | Classifier,
    classes: list[str],
    difference: float,
) -> None:
    """Write FOLDER/README.md with the figures of RUN/results.json; if the run has not ended, the card says so.

    library: the library_name of the card. use: lines of code that load the folder. classes: [] for a pretraining run.
    difference: the largest difference between the outputs of the exported model and the run's.
    """
    try:
        results: Mapping[str, Any] = read_results(run)
    except UserError:
        results = {}
    tuned = isinstance(config, FinetuneConfig)
    front = [
        f"library_name: {library}",
        "license: unknown",
        f"tags: [hpm-video, self-supervised, masked-autoencoder, {'video' if config.data.num_frames > 1 else 'image'}]",
    ]
    front += ["pipeline_tag: video-classification"] if tuned and config.data.num_frames > 1 else []
    parts = [["---", *front, "---"], [f"# {run.resolve().name}"], _describe(config, model, classes)]
    parts += [["## Use", "```python", *use, "```"], ["## Training", *_training(config, results)]]
    parts += [["## Figures", *_figures(results)], ["## Licence", LICENCE]]
    parts += [
        [f"{SIGNATURE} {__version__}. On random clips its outputs differ from the run's by at most {difference:.2g}."]
    ]
    write_text(folder / "README.md", "\n\n".join("\n".join(lines) for lines in parts) + "\n")


def _describe(config: RunConfig, model: Student | Classifier, classes: list[str]) -> list[str]:
    encoder, data = model.encoder, config.data
    height, width = data.frame_size_px
    size = f"{encoder.width} wide, {len(encoder.stack.blocks)} blocks"
    frames = f"{data.num_frames} frames" if data.num_frames > 1 else "one frame"
    what = f"a classifier of {len(classes)} classes" if classes else "an encoder that was pretrained without labels"
    patch = f"{encoder.embed.tubelet} x {encoder.embed.patch} x {encoder.embed.patch}"
    return [
        f"{what.capitalize()}: a plain ViT ({size}), tokens of {patch} pixels.",
        "",
        f"Input: {frames} of {height} x {width} px, values in 0..1, less mean {list(data.mean)}, divided by std {list(data.std)}.",
        *([f"Frames: {_describe_frames(data)}"] if data.num_frames > 1 else []),
    ]


def _describe_frames(data: DataConfig) -> str:
    """Return which frames of a video the model was trained on."""
    segments = f"one from each of {data.num_frames} equal parts of the video, the middle one in a test"
    rate = f" of the video at {data.fps:g} frames per second" if data.fps is not None else ""
    every = "consecutive frames" if data.stride == 1 else f"one in {data.stride} frames"
    span = data.num_frames * data.stride
    dense = f"{every}{rate}, {span} frames in all; of a longer video any such part, or several of them"
    either = (
        f"as the protocol of the data set says. segments, the usual one: {segments}. dense, as for Kinetics: {dense}"
    )
    return {"segments": segments, "dense": dense, "auto": either}[data.sampling] + "."


def _training(config: RunConfig, results: Mapping[str, Any]) -> list[str]:
    optim, data = config.optim, results.get("data", {})
    rows = [("data", _format_data(data))]
    if isinstance(config, PretrainConfig):
        mask = config.mask
        rows += [
            ("masks", f"mode {mask.mode}, unit {mask.unit}, ratio {mask.ratio:g}"),
            ("target", config.objective.target),
        ]
        if trains_predictor(config):
            rows += [("share of hard units", f"{mask.hard_share_start:g} to {mask.hard_share_end:g}")]
            rows += [("teacher", f"view {config.teacher.view}, momentum {config.teacher.momentum_end:g}")]
    else:
        rows += [("pooling", config.model.pooling), ("started from", _format_start(results))]
    rows += [("batch", str(optim.batch_size)), ("base learning rate, of 256 clips", f"{optim.base_lr:g}")]
    rows += [("seed", str(config.train.seed))]
    if results:
        rows += [("device hours", f"{results['device_hours']:.3g}"), ("FLOPs", _format_flops(results))]
        rows += [("commit", (results.get("commit") or {}).get("commit", "unknown"))]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _format_data(data: Mapping[str, Any]) -> str:
    return f"{data['name']}, {data['num_rows']} samples, fingerprint {data['fingerprint']}" if data else "not recorded"


def _format_start(results: Mapping[str, Any]) -> str:
    pretraining = results.get("pretraining")
    if not pretraining:
        return "no weights with a record"
    mode = pretraining["config"].get("mask", {}).get("mode", "?")
    return f"a pretraining, mode {mode}, on {_format_data(pretraining.get('data') or {})}"


def _format_flops(results: Mapping[str, Any]) -> str:
    return "not counted" if results.get("flops") is None else f"{results['flops']:.3g} ({results['flops_note']})"


def _figures(results: Mapping[str, Any]) -> list[str]:
    if not results:
        return ["The run has not ended: there are no figures."]
    figures = {name: value for name, value in results["figures"].items() if name in FIGURES}
    rows = [(name, json.dumps(round(v, 4) if isinstance(v, float) else v)) for name, v in figures.items()]
    for name, scores in results["scores"].items():
        for key, value in scores.items():
            if isinstance(value, float):
                interval = scores.get(f"{key}_interval")
                spread = f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
                rows.append((f"{name}, {key}", f"{value:.4f}{spread}"))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]

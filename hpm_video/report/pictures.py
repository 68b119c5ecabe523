"""Pictures of a run: masks, reconstructions, difficulty maps, curves. Every picture is computed from the run's own files."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Geometry
from hpm_video.data.loader import HeldOut, load_held_out
from hpm_video.data.splits import open_unlabelled
from hpm_video.data.transforms import Normalise
from hpm_video.files import all_names, own_folder, write_bytes
from hpm_video.fonts import fonts_for, name_file
from hpm_video.method.journey import Journey
from hpm_video.method.masking.units import make_units
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.pixels import to_pixels
from hpm_video.models.student import Student
from hpm_video.models.tokens import patchify, unpatchify
from hpm_video.reading import read_rows
from hpm_video.runs.settings import load_run_config
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.types import BatchSlice
from hpm_video.weights.load import load_beside, load_student

GREY = 0.5
DIFFICULTY = "inferno"  # colours of difficulty: dark is easy, bright is hard
LONGEST_NAME = 60  # of a run or variant, in a legend
COLOURS = {"hpm": "#c0392b", "random": "#2c7fb8", "untrained": "#888888"}


def draw_run(run: Path, out: Path) -> list[Path]:
    """PNG files of a run: clips.png, difficulty.png (modes with a teacher), curves.png."""
    names = ("clips.png", "difficulty.png", "curves.png")
    with own_folder(out, "hpm-video show", lambda folder: all_names(folder, *names)) as own:
        pictures = (draw_clips(run), draw_difficulty(run), draw_curves({run.name: run}))
        drawn = {name: picture for name, picture in zip(names, pictures, strict=True) if picture is not None}
        own.reserve(drawn)
        for name, picture in drawn.items():
            write_bytes(out / name, picture)
    return [out / name for name in drawn]


def held_out_clips(config: PretrainConfig, num: int) -> UInt8[Tensor, "n C T H W"]:
    return open_held_out(config, num).clip


def open_held_out(config: PretrainConfig, num: int) -> HeldOut:
    return load_held_out(open_unlabelled(config.data, config.train.seed)[1], config.data, num)


def draw_clips(run: Path) -> bytes:
    """Held-out clips: input, random mask, its reconstruction; then difficulty, hard mask, its reconstruction. Where the target
    is features, there are no reconstructions, and the picture says so."""
    config, student = load_student(run)
    held_out = open_held_out(config, max(1, config.train.num_pictures))
    step, engine, clip = open_step(config, student, run, held_out.clip)
    place, rows, row = BatchSlice(0, len(clip), len(clip)), [], TARGETS[config.objective.target]

    def rebuilt(journey: Journey) -> list[tuple[str, Tensor]]:
        return [] if not row.is_pixels else [("reconstruction", rebuild(clip, journey, config))]

    with torch.no_grad():
        random = step.forward(engine, clip, place, 0, 0, decode_all=True)
        rows += [("input", clip), ("random mask", hide(clip, random, config)), *rebuilt(random)]
        if step.uses_difficulty:
            hard = step.forward(engine, clip, place, 0, max(1, step.num_hard(1.0)), decode_all=True)
            assert hard.difficulty is not None
            rows += [
                (
                    f"difficulty ({config.mask.difficulty})",
                    overlay(clip, _on_tokens(hard.difficulty, step.units), config),
                )
            ]
            rows += [("hard mask", hide(clip, hard, config)), *rebuilt(hard)]
    pictures = [(name, _to_rgb(row, config)) for name, row in rows]
    return _draw_rows(pictures, held_out.names, _note_on_target(config.objective.target), scale=step.uses_difficulty)


def _note_on_target(target: str) -> str:
    """What must be known of the reconstructions."""
    row = TARGETS[target]
    if row.is_normalised:
        return f"Reconstructions use the true mean and standard deviation of each patch (objective.target={target})"
    return "" if row.is_pixels else f"No reconstructions: objective.target={target} is features, not pixels"


def open_step(
    config: PretrainConfig, student: Student, run: Path, frames: Tensor
) -> tuple[PretrainStep, PlainEngine, Tensor]:
    """A run's step with its teacher, an engine around its student, and the frames as clips."""
    step = PretrainStep(config, student, torch.device("cpu"))
    if step.beside is not None:
        load_beside(run, step.beside)
    return step, PlainEngine(student.eval(), config, torch.device("cpu")), Normalise(config.data)(frames)


def hide(clip: Float[Tensor, "B C T H W"], journey: Journey, config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """The clip with its hidden tokens grey."""
    normal = Normalise(config.data)
    grey = ((GREY - normal.mean) / normal.std).expand_as(clip)
    return torch.where(_spread(journey.mask.masked.float(), config) > 0, grey, clip)


def rebuild(clip: Float[Tensor, "B C T H W"], journey: Journey, config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """Visible pixels as they are, hidden ones as predicted, with the true mean and std of a normalised target."""
    geometry = Geometry.of(config)
    tokens = patchify(clip, geometry.tubelet, geometry.patch_px).clone()
    predicted = to_pixels(journey.output.pixels, journey.target)
    tokens.scatter_(1, journey.mask.decoded[:, :, None].expand(-1, -1, tokens.shape[2]), predicted)
    return unpatchify(tokens, geometry.grid, geometry.tubelet, geometry.patch_px)


def overlay(
    clip: Float[Tensor, "B C T H W"], values: Float[Tensor, "B N"], config: PretrainConfig
) -> Float[Tensor, "B C T H W"]:
    """A heat map, from dark (easy) to yellow (hard) within each clip, over the darkened frames."""
    import matplotlib

    maps = _spread(_unit_range(values), config)[:, 0]  # [B, T, H, W]
    colours = torch.from_numpy(matplotlib.colormaps[DIFFICULTY](maps.numpy())[..., :3]).float().permute(0, 4, 1, 2, 3)
    normal = Normalise(config.data)
    return (0.65 * colours + 0.35 * normal.undo(clip) - normal.mean) / normal.std


def _on_tokens(difficulty: Float[Tensor, "B U"], units: Int[Tensor, "U K"]) -> Float[Tensor, "B N"]:
    values = torch.zeros(difficulty.shape[0], units.numel())
    values[:, units.flatten()] = difficulty.repeat_interleave(units.shape[1], dim=1)
    return values


def _spread(values: Float[Tensor, "B N"], config: PretrainConfig) -> Float[Tensor, "B 3 T H W"]:
    """A number for each token, on all of its pixels."""
    geometry = Geometry.of(config)
    tokens = values[:, :, None].expand(-1, -1, geometry.values_per_token)
    return unpatchify(tokens, geometry.grid, geometry.tubelet, geometry.patch_px)


def _to_rgb(clip: Float[Tensor, "B C T H W"], config: PretrainConfig) -> Float[ndarray, "B T H W C"]:
    return Normalise(config.data).undo(clip).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


def _draw_rows(
    rows: list[tuple[str, ndarray]], names: Sequence[str], note: str = "", num_times: int = 4, scale: bool = False
) -> bytes:
    """One block for each clip, named above; a line for each picture, frames from left to right; blocks side by side; `note`
    below; `scale`: of the difficulty, at the right."""
    num_clips, num_frames = rows[0][1].shape[:2]
    times = np.linspace(0, num_frames - 1, min(num_times, num_frames)).round().astype(int)
    with fonts_for(names):
        figure, axes = subplots(len(rows), num_clips, 0.95 * len(times) + 0.3, 1.0)
        for line, (label, pictures) in enumerate(rows):
            for column in range(num_clips):
                strip = [np.pad(pictures[column, t], ((1, 1), (1, 1), (0, 0)), constant_values=1) for t in times]
                axis = axes[line][column]
                axis.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
                _hide_frame(axis)
                if column == 0:
                    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
                if line == 0:
                    axis.set_title(name_file(Path(names[column]).name, 12 * len(times) + 2), fontsize=8)
        below = [note, "Time runs to the right" if len(times) > 1 else ""]
        figure.text(0.5, 0.02, ". ".join(text for text in below if text), ha="center", fontsize=8)
        if scale:
            _add_scale(figure, axes)
        return to_png(figure)


def _hide_frame(axis: Any) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _add_scale(figure: Any, axes: Any) -> None:
    """The colours of difficulty: each map goes from the easiest to the hardest unit of its own clip."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap=DIFFICULTY), ax=axes, fraction=0.03, pad=0.02, aspect=30)
    bar.set_ticks([0, 1], labels=["easiest", "hardest"], fontsize=7)
    bar.set_label("difficulty within the clip: bright = hard", fontsize=8)


def draw_difficulty(run: Path, num_steps: int = 6) -> bytes | None:
    """What the teacher found hard over the training: the middle frame of held-out clips, and their maps below it; None without one."""
    file, config = run / "difficulty.jsonl", load_run_config(run)
    geometry = Geometry.of(config)
    units = make_units(geometry.grid, geometry.block)
    rows = read_rows(file, "what a run wrote, or nothing there") if file.exists() else []
    lines = [row for row in rows if "step" in row and _are_maps(row.get("difficulty"), len(units))]
    lines = [line for line in lines if len(line["difficulty"]) == len(lines[0]["difficulty"])]
    if not lines:
        return None
    lines = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, num_steps).round().astype(int))]
    held_out = open_held_out(config, len(lines[0]["difficulty"]))
    frames = held_out.clip
    middle = frames.shape[2] // 2
    pictures = [("middle frame", frames[:, :, middle].permute(0, 2, 3, 1).numpy())]
    for line in lines:
        values = _on_tokens(torch.tensor(line["difficulty"]), units)
        pictures.append((f"step {line['step']:,}", _spread(_unit_range(values), config)[:, 0, middle].numpy()))
    with fonts_for(held_out.names):
        figure, axes = subplots(len(pictures), len(frames), 1.3, 1.3)
        for row, (name, images) in enumerate(pictures):
            for column, image in enumerate(images):
                axis = axes[row][column]
                axis.imshow(image, cmap=DIFFICULTY, vmin=0, vmax=1, interpolation="nearest")
                _hide_frame(axis)
                if column == 0:
                    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
                if row == 0:
                    axis.set_title(name_file(Path(held_out.names[column]).name, 18), fontsize=7)
        _add_scale(figure, axes)
        return to_png(figure)


def _are_maps(values: Any, num_units: int) -> bool:
    """Return whether this is a list of clips, each with one number for each unit."""
    try:
        found = np.asarray(values, dtype=float)
    except (ValueError, TypeError, OverflowError):
        return False
    return found.ndim == 2 and len(found) > 0 and found.shape[1] == num_units


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-9)


CURVES: Mapping[str, str] = {
    "pixel_loss": "reconstruction loss, training masks",
    "held_out/pixel_loss": "reconstruction loss, held-out clips, random masks",
    "held_out/hardness_gain": "hardness gain (above 1: masks harder than random)",
    "rank_correlation": "rank correlation of predicted and true loss,\ntraining clips and masks",
    "held_out/rank_correlation": "rank correlation of predicted and true loss,\nheld-out clips, random masks",
    "hard_share": "share of the masked units chosen by difficulty",
    "lr": "learning rate",
}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return what a run measured, numbers only. Raises UserError."""
    rows = read_rows(run / "metrics.jsonl", "the measurements of a run, as it writes them")
    return [{name: value for name, value in row.items() if _is_number(value)} for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def draw_curves(
    runs: Mapping[str, Path | Sequence[Path]],
    curves: Mapping[str, str] = CURVES,
    colours: Mapping[str, str] = COLOURS,
) -> bytes:
    """metrics.jsonl of one or more runs, or of several with one name, against the seconds of training."""
    metrics = {name: [read_metrics(r) for r in ([run] if isinstance(run, Path) else run)] for name, run in runs.items()}
    with fonts_for(metrics):
        figure, axes = subplots(-(-len(curves) // 3), 3, 3.6, 2.5)
        panels = [axis for row in axes for axis in row]
        for axis in panels[len(curves) :]:
            axis.set_axis_off()
        for axis, (key, title) in zip(panels, curves.items(), strict=False):
            for name, members in metrics.items():
                lines = [_points(lines, key) for lines in members]
                for number, points in enumerate(points for points in lines if points):
                    label, marker = (
                        name_file(name, LONGEST_NAME) if number == 0 else None,
                        "o" if len(points) == 1 else None,
                    )
                    style: dict[str, Any] = {"color": colours.get(name), "linewidth": 1.2, "markersize": 4}
                    axis.plot(*zip(*points, strict=True), label=label, marker=marker, **style)
            _finish_panel(axis, key, title)
        figure.tight_layout()
        if len(metrics) > 1:
            legend_below(figure, axes)
        return to_png(figure)


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["seconds"], line[key]) for line in lines if {key, "seconds"} <= line.keys()]


def _finish_panel(axis: Any, key: str, title: str) -> None:
    """Title, ticks as plain numbers, a log scale for losses that fall by more than half; a panel without values says so."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    if not axis.lines:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    if key.endswith("hardness_gain"):
        axis.axhline(1.0, color="#888888", linewidth=0.8, linestyle="--")
    values = [y for line in axis.lines for y in line.get_ydata() if y > 0]
    if key.endswith("pixel_loss") and values and max(values) > 2 * min(values):
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.set_yticks(np.geomspace(low, high, 7)[1:-1])
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    elif axis.lines:
        _set_plain_ticks(axis.yaxis)
    if axis.lines:
        _set_plain_ticks(axis.xaxis)
    axis.set_title(title, fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.set_xlabel("seconds of training", fontsize=7)


def _set_plain_ticks(axis: Any) -> None:
    """Whole decimal numbers: no powers of ten and no offset beside the axis."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    plain = ScalarFormatter(useOffset=False)
    plain.set_scientific(False)
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(plain)


def subplots(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width + 1.2, rows * height + 0.3))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(wspace=0.04, hspace=0.08)
    return figure, axes


def legend_below(figure: Any, axes: Any) -> None:
    """Every name once, under all panels."""
    pairs = [zip(*axis.get_legend_handles_labels(), strict=True) for row in axes for axis in row]
    named = {name: handle for panel in pairs for handle, name in panel}
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 4, "fontsize": 8, "frameon": False}
    figure.legend([*named.values()], [*named], **place)


def to_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()

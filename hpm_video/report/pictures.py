"""Pictures of a run: masks, reconstructions, difficulty maps. Every picture is computed from the run's own files."""

from collections.abc import Sequence
from dataclasses import replace
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
from hpm_video.config.needs import knows_other_clips, masks_by_difficulty
from hpm_video.data.loader import HeldOut, load_held_out, load_training_clips
from hpm_video.data.splits import open_unlabelled
from hpm_video.data.transforms import Normalise
from hpm_video.figures import subplots, to_png
from hpm_video.files import write_bytes
from hpm_video.fonts import fonts_for, name_file
from hpm_video.method.journey import Journey
from hpm_video.method.masking.units import make_units
from hpm_video.method.step import PretrainStep
from hpm_video.method.targets.pixels import to_pixels
from hpm_video.models.student import Student
from hpm_video.models.tokens import patchify, unpatchify
from hpm_video.own_folder import all_names, own_folder
from hpm_video.reading import read_rows
from hpm_video.report.curves import draw_curves
from hpm_video.runs.settings import load_run_config
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.types import Batch, BatchSlice
from hpm_video.weights.load import load_beside, load_student

GREY = 0.5
DIFFICULTY = "inferno"  # colours of difficulty: dark is easy, bright is hard


def draw_run(run: Path, out: Path) -> list[Path]:
    """Write clips.png, difficulty.png (of masks by difficulty) and curves.png; return the files."""
    names = ("clips.png", "difficulty.png", "curves.png")
    with own_folder(out, "hpm-video show", lambda folder: all_names(folder, *names)) as own:
        pictures = (draw_clips(run), draw_difficulty(run), draw_curves({run.name: run}))
        drawn = {name: picture for name, picture in zip(names, pictures, strict=True) if picture is not None}
        own.reserve(drawn)
        for name, picture in drawn.items():
            write_bytes(out / name, picture)
    return [out / name for name in drawn]


def held_out_clips(config: PretrainConfig, num: int) -> UInt8[Tensor, "n C T H W"]:
    """Return some clips that the run was not trained on."""
    return open_held_out(config, num).clip


def open_held_out(config: PretrainConfig, num: int) -> HeldOut:
    """Return some clips that the run was not trained on, with their names."""
    return load_held_out(open_unlabelled(config.data, config.train.seed)[1], config.data, num)


def open_pictured(config: PretrainConfig, num: int) -> tuple[Batch, list[str], int]:
    """Return the clips of the pictures, their names, and the number of training clips if they are some of those: else 0."""
    if not masks_by_difficulty(config) or knows_other_clips(config):
        held_out = open_held_out(config, num)
        return Batch(held_out.clip, held_out.label, torch.arange(len(held_out.clip))), held_out.names, 0
    source = open_unlabelled(config.data, config.train.seed)[0]
    batch = load_training_clips(source, config.data, num)
    return batch, [source.name(row) for row in batch.sample.tolist()], len(source)


def draw_clips(run: Path) -> bytes:
    """Draw held-out clips: input, random mask, its reconstruction; then difficulty, hard mask, its reconstruction.
    If the target is features, there are no reconstructions, and the picture says so. If difficulty is known of training clips
    alone, those are drawn, and the picture says so too."""
    config, student = load_student(run)
    batch, names, num_samples = open_pictured(config, max(1, config.train.num_pictures))
    step, engine, clip = open_step(config, student, run, batch.clip, num_samples)
    place, rows, row = BatchSlice(0, len(clip), len(clip)), [], TARGETS[config.objective.target]

    def rebuilt(journey: Journey) -> list[tuple[str, Tensor]]:
        return [] if not row.is_pixels else [("reconstruction", rebuild(clip, journey, config))]

    with torch.no_grad():
        random = step.forward(engine, clip, place, 0, 0, decode_all=True)
        rows += [("input", clip), ("random mask", hide(clip, random, config)), *rebuilt(random)]
        if step.uses_difficulty:
            hard = step.forward(engine, clip, place, 0, max(1, step.num_hard(1.0)), decode_all=True, batch=batch)
            assert hard.difficulty is not None
            rows += [
                (
                    f"difficulty ({config.mask.difficulty})",
                    overlay(clip, on_tokens(hard.difficulty, step.units), config),
                )
            ]
            rows += [(_name_mask(config), hide(clip, hard, config)), *rebuilt(hard)]
    pictures = [(name, to_rgb(row, config)) for name, row in rows]
    notes = [note_on_target(config.objective.target)]
    if num_samples:
        notes.append(f"Training clips, as no difficulty is known of others (mask.difficulty={config.mask.difficulty})")
    return _draw_rows(pictures, names, ". ".join(filter(None, notes)), scale=step.uses_difficulty)


def _name_mask(config: PretrainConfig) -> str:
    """Return what the masks by difficulty are called."""
    hides_easy = config.mask.mode == "inverted" or (config.mask.sharpness or 0) < 0
    return "easy mask" if hides_easy else "hard mask"


def note_on_target(target: str) -> str:
    """Return what a reader must know of the reconstructions."""
    row = TARGETS[target]
    if row.is_normalised:
        return f"Reconstructions use the true mean and standard deviation of each patch (objective.target={target})"
    return "" if row.is_pixels else f"No reconstructions: objective.target={target} is features, not pixels"


def open_step(
    config: PretrainConfig, student: Student, run: Path, frames: Tensor, num_samples: int = 0
) -> tuple[PretrainStep, PlainEngine, Tensor]:
    """Return a run's step with its teacher and one mask for each clip, an engine around its student, and the frames as clips.
    num_samples: of the training data, for what is known of those alone."""
    one_mask = replace(config, mask=replace(config.mask, masks_per_clip=1))
    step = PretrainStep(one_mask, student, torch.device("cpu"), num_samples)
    if step.beside is not None:
        load_beside(run, step.beside)
    return step, PlainEngine(student.eval(), config, torch.device("cpu")), Normalise(config.data)(frames)


def hide(clip: Float[Tensor, "B C T H W"], journey: Journey, config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """Return the clip with its hidden tokens grey."""
    normal = Normalise(config.data)
    grey = ((GREY - normal.mean) / normal.std).expand_as(clip)
    return torch.where(_spread(journey.mask.masked.float(), config) > 0, grey, clip)


def rebuild(clip: Float[Tensor, "B C T H W"], journey: Journey, config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """Return visible pixels as they are, hidden ones as predicted, with the true mean and std of a normalised
    target."""
    geometry = Geometry.of(config)
    tokens = patchify(clip, geometry.tubelet, geometry.patch_px).clone()
    predicted = to_pixels(journey.output.pixels, journey.target)
    tokens.scatter_(1, journey.mask.decoded[:, :, None].expand(-1, -1, tokens.shape[2]), predicted)
    return unpatchify(tokens, geometry.grid, geometry.tubelet, geometry.patch_px)


def overlay(
    clip: Float[Tensor, "B C T H W"], values: Float[Tensor, "B N"], config: PretrainConfig
) -> Float[Tensor, "B C T H W"]:
    """Return a heat map, from dark (easy) to yellow (hard) within each clip, over the darkened frames."""
    import matplotlib

    maps = _spread(_unit_range(values), config)[:, 0]  # [B, T, H, W]
    colours = torch.from_numpy(matplotlib.colormaps[DIFFICULTY](maps.numpy())[..., :3]).float().permute(0, 4, 1, 2, 3)
    normal = Normalise(config.data)
    return (0.65 * colours + 0.35 * normal.undo(clip) - normal.mean) / normal.std


def on_tokens(difficulty: Float[Tensor, "B U"], units: Int[Tensor, "U K"]) -> Float[Tensor, "B N"]:
    """Give all tokens of a unit its difficulty."""
    values = torch.zeros(difficulty.shape[0], units.numel())
    values[:, units.flatten()] = difficulty.repeat_interleave(units.shape[1], dim=1)
    return values


def _spread(values: Float[Tensor, "B N"], config: PretrainConfig) -> Float[Tensor, "B 3 T H W"]:
    """Give all pixels of a token its number."""
    geometry = Geometry.of(config)
    tokens = values[:, :, None].expand(-1, -1, geometry.values_per_token)
    return unpatchify(tokens, geometry.grid, geometry.tubelet, geometry.patch_px)


def to_rgb(clip: Float[Tensor, "B C T H W"], config: PretrainConfig) -> Float[ndarray, "B T H W C"]:
    """Return the clips as pictures with values in 0 to 1."""
    return Normalise(config.data).undo(clip).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


def _draw_rows(
    rows: list[tuple[str, ndarray]], names: Sequence[str], note: str = "", num_times: int = 4, scale: bool = False
) -> bytes:
    """Draw one block for each clip, named above; a line for each picture, frames from left to right; blocks side by
    side; `note` below; `scale`: of the difficulty, at the right."""
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
    """Add the colours of difficulty: each map goes from the easiest to the hardest unit of its own clip."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap=DIFFICULTY), ax=axes, fraction=0.03, pad=0.02, aspect=30)
    bar.set_ticks([0, 1], labels=["easiest", "hardest"], fontsize=7)
    bar.set_label("difficulty within the clip: bright = hard", fontsize=8)


def draw_difficulty(run: Path, num_steps: int = 6) -> bytes | None:
    """Draw the difficulty over the training: the middle frame of some clips (`open_pictured`), and their maps below it. Return
    None if the run has no maps."""
    file, config = run / "difficulty.jsonl", load_run_config(run)
    geometry = Geometry.of(config)
    units = make_units(geometry.grid, geometry.block)
    rows = read_rows(file, "what a run wrote, or nothing there") if file.exists() else []
    lines = [row for row in rows if "step" in row and _are_maps(row.get("difficulty"), len(units))]
    lines = [line for line in lines if len(line["difficulty"]) == len(lines[0]["difficulty"])]
    if not lines:
        return None
    lines = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, num_steps).round().astype(int))]
    batch, names, _ = open_pictured(config, len(lines[0]["difficulty"]))
    frames = batch.clip
    middle = frames.shape[2] // 2
    pictures = [("middle frame", frames[:, :, middle].permute(0, 2, 3, 1).numpy())]
    for line in lines:
        values = on_tokens(torch.tensor(line["difficulty"]), units)
        pictures.append((f"step {line['step']:,}", _spread(_unit_range(values), config)[:, 0, middle].numpy()))
    with fonts_for(names):
        figure, axes = subplots(len(pictures), len(frames), 1.3, 1.3)
        for row, (name, images) in enumerate(pictures):
            for column, image in enumerate(images):
                axis = axes[row][column]
                axis.imshow(image, cmap=DIFFICULTY, vmin=0, vmax=1, interpolation="nearest")
                _hide_frame(axis)
                if column == 0:
                    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
                if row == 0:
                    axis.set_title(name_file(Path(names[column]).name, 18), fontsize=7)
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

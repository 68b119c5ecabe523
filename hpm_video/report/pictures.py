"""Draw masks, reconstructions and difficulty maps of a run, from its own files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
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
DIFFICULTY = "inferno"  # colour map of difficulty: dark is easy, bright is hard


def draw_run(run: Path, out: Path) -> list[Path]:
    """Write clips.png, difficulty.png (if masks follow difficulty) and curves.png; return the files."""
    names = ("clips.png", "difficulty.png", "curves.png")
    with own_folder(out, "hpm-video show", lambda folder: all_names(folder, *names)) as own:
        pictures = (draw_clips(run), draw_difficulty(run), draw_curves({run.name: run}))
        drawn = {name: picture for name, picture in zip(names, pictures, strict=True) if picture is not None}
        own.reserve(drawn)
        for name, picture in drawn.items():
            write_bytes(out / name, picture)
    return [out / name for name in drawn]


def open_held_out(config: PretrainConfig, num: int) -> HeldOut:
    """Return clips that the run was not trained on, with their names."""
    return load_held_out(open_unlabelled(config.data, config.train.seed)[1], config.data, num)


def open_pictured(config: PretrainConfig, num: int) -> tuple[Batch, list[str], int]:
    """Return the clips to draw, their names, and the size of the training set if the clips are from it (else 0).

    They are held-out clips, or training clips if the difficulty of other clips is unknown.
    """
    if not masks_by_difficulty(config) or knows_other_clips(config):
        held_out = open_held_out(config, num)
        return Batch(held_out.clip, held_out.label, torch.arange(len(held_out.clip))), held_out.names, 0
    source = open_unlabelled(config.data, config.train.seed)[0]
    batch = load_training_clips(source, config.data, num)
    return batch, [source.name(row) for row in batch.sample.tolist()], len(source)


def draw_clips(run: Path) -> bytes:
    """Draw clips (`open_pictured`): input, random mask and its reconstruction; then difficulty, hard mask and its
    reconstruction. Notes below name what a reader would miss: training clips, no reconstructions, undrawn channels."""
    config, student = load_student(run)
    batch, names, num_samples = open_pictured(config, max(1, config.train.num_pictures))
    step, engine, clip = open_step(config, student, run, batch.clip, num_samples)
    place = BatchSlice(0, len(clip), len(clip))

    def masked(name: str, journey: Journey) -> list[tuple[str, ndarray]]:
        rows = [(name, to_rgb(hide(clip, journey, config), config))]
        if TARGETS[config.objective.target].is_pixels:
            rows.append(("reconstruction", to_rgb(rebuild(clip, journey, config), config)))
        return rows

    with torch.no_grad():
        random = step.forward(engine, clip, place, 0, 0, decode_all=True)
        rows = [("input", to_rgb(clip, config)), *masked("random mask", random)]
        if step.uses_difficulty:
            hard = step.forward(engine, clip, place, 0, max(1, step.num_hard(1.0)), decode_all=True, batch=batch)
            assert hard.difficulty is not None
            difficulty = overlay(clip, on_tokens(hard.difficulty, step.units), config)
            rows += [(f"difficulty ({config.mask.difficulty})", difficulty), *masked(_name_mask(config), hard)]
    notes = [note_on_target(config.objective.target), note_on_channels(clip.shape[1])]
    if num_samples:
        notes.append(f"Training clips: other clips have no known difficulty (mask.difficulty={config.mask.difficulty})")
    return _draw_strips(rows, names, notes, scale=step.uses_difficulty)


def _name_mask(config: PretrainConfig) -> str:
    """Return the name of masks that are chosen by difficulty."""
    hides_easy = config.mask.mode == "inverted" or (config.mask.sharpness or 0) < 0
    return "easy mask" if hides_easy else "hard mask"


def note_on_target(target: str) -> str:
    """Return a note on the reconstructions, or an empty text."""
    row = TARGETS[target]
    if row.is_normalised:
        return f"Reconstructions use the true mean and standard deviation of each patch (objective.target={target})"
    return "" if row.is_pixels else f"No reconstructions: objective.target={target} is features, not pixels"


def note_on_channels(num_channels: int) -> str:
    """Return a note on the channels that `to_colours` draws, or an empty text if they are red, green and blue."""
    if num_channels == 3:
        return ""
    if num_channels > 3:
        return f"First 3 of {num_channels} channels, drawn as red, green and blue"
    return "One channel, drawn in grey" if num_channels == 1 else f"First of {num_channels} channels, drawn in grey"


def open_step(
    config: PretrainConfig, student: Student, run: Path, frames: Tensor, num_samples: int = 0
) -> tuple[PretrainStep, PlainEngine, Tensor]:
    """Return the step of a run with its teacher and one mask for each clip, an engine with its student, and the
    normalised frames. num_samples: size of the training set, for difficulty that is known for its clips only."""
    one_mask = replace(config, mask=replace(config.mask, masks_per_clip=1))
    step = PretrainStep(one_mask, student, torch.device("cpu"), num_samples)
    if step.beside is not None:
        load_beside(run, step.beside)
    return step, PlainEngine(student.eval(), config, torch.device("cpu")), Normalise(config.data)(frames)


def hide(clip: Float[Tensor, "B C T H W"], journey: Journey, config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """Return the clip with its hidden tokens in grey."""
    normal = Normalise(config.data)
    grey = ((GREY - normal.mean) / normal.std).expand_as(clip)
    return torch.where(_spread(journey.mask.masked.float(), config) > 0, grey, clip)


def rebuild(clip: Float[Tensor, "B C T H W"], journey: Journey, config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """Return the clip with its hidden pixels as predicted. A normalised target takes the true mean and std of each patch."""
    geometry = Geometry.of(config)
    tokens = patchify(clip, geometry.tubelet, geometry.patch_px).clone()
    predicted = to_pixels(journey.output.pixels, journey.target)
    tokens.scatter_(1, journey.mask.decoded[:, :, None].expand(-1, -1, tokens.shape[2]), predicted)
    return unpatchify(tokens, geometry.grid, geometry.tubelet, geometry.patch_px)


def overlay(
    clip: Float[Tensor, "B C T H W"], values: Float[Tensor, "B N"], config: PretrainConfig
) -> Float[ndarray, "B T H W 3"]:
    """Return pictures of a heat map, from dark (easy) to yellow (hard) within each clip, over the darkened frames."""
    import matplotlib

    maps = _spread(_unit_range(values), config)[:, 0]  # [B, T, H, W]
    colours = matplotlib.colormaps[DIFFICULTY](maps.numpy())[..., :3].astype(np.float32)
    return 0.65 * colours + 0.35 * to_rgb(clip, config)


def on_tokens(difficulty: Float[Tensor, "B U"], units: Int[Tensor, "U K"]) -> Float[Tensor, "B N"]:
    """Return the difficulty of each token: that of its unit."""
    values = torch.zeros(difficulty.shape[0], units.numel())
    values[:, units.flatten()] = difficulty.repeat_interleave(units.shape[1], dim=1)
    return values


def _spread(values: Float[Tensor, "B N"], config: PretrainConfig) -> Float[Tensor, "B C T H W"]:
    """Return the value of each pixel: that of its token."""
    geometry = Geometry.of(config)
    tokens = values[:, :, None].expand(-1, -1, geometry.values_per_token)
    return unpatchify(tokens, geometry.grid, geometry.tubelet, geometry.patch_px)


def to_rgb(clip: Float[Tensor, "B C T H W"], config: PretrainConfig) -> Float[ndarray, "B T H W 3"]:
    """Return normalised clips as pictures with values in 0 to 1."""
    return to_colours(Normalise(config.data).undo(clip).clamp(0, 1)).permute(0, 2, 3, 4, 1).numpy()


def to_colours(clip: Shaped[Tensor, "B C T H W"]) -> Shaped[Tensor, "B 3 T H W"]:
    """Return the first three channels as red, green and blue; of fewer channels, the first one as grey."""
    return clip[:, :3] if clip.shape[1] >= 3 else clip[:, :1].expand(-1, 3, -1, -1, -1)


def _draw_strips(
    rows: list[tuple[str, ndarray]], names: Sequence[str], notes: list[str], num_times: int = 4, scale: bool = False
) -> bytes:
    """Draw a row for each label and a column for each clip; each cell has frames from left to right."""
    num_frames = rows[0][1].shape[1]
    times = np.linspace(0, num_frames - 1, min(num_times, num_frames)).round().astype(int)
    border = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
    framed = [(label, np.pad(clips[:, times], border, constant_values=1)) for label, clips in rows]
    strips = [(label, rearrange(clips, "n t h w c -> n h (t w) c")) for label, clips in framed]
    notes = [*notes, "Time runs to the right" if len(times) > 1 else ""]
    return _draw_grid(strips, names, (0.95 * len(times) + 0.3, 1.0), 12 * len(times) + 2, notes, scale)


def _draw_grid(  # noqa: PLR0913
    rows: list[tuple[str, ndarray]],
    names: Sequence[str],
    size: tuple[float, float],
    longest_name: int,
    notes: Sequence[str],
    scale: bool,
) -> bytes:
    """Draw pictures in a grid with labels at the left, names above and notes below. size: width and height of a picture
    in inches; scale: draw the colours of difficulty at the right."""
    with fonts_for(names):
        figure, axes = subplots(len(rows), len(names), *size)
        for line, (label, pictures) in zip(axes, rows, strict=True):
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
            for axis, picture in zip(line, pictures, strict=True):
                axis.imshow(picture, cmap=DIFFICULTY, vmin=0, vmax=1, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
        for axis, name in zip(axes[0], names, strict=True):
            axis.set_title(name_file(Path(name).name, longest_name), fontsize=8)
        figure.text(0.5, 0.02, ". ".join(filter(None, notes)), ha="center", fontsize=8)
        if scale:
            _add_scale(figure, axes)
        return to_png(figure)


def _add_scale(figure: Any, axes: Any) -> None:
    """Add the colours of difficulty; each map goes from the easiest to the hardest unit of its clip."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap=DIFFICULTY), ax=axes, fraction=0.03, pad=0.02, aspect=30)
    bar.set_ticks([0, 1], labels=["easiest", "hardest"], fontsize=7)
    bar.set_label("difficulty within the clip: bright = hard", fontsize=8)


def draw_difficulty(run: Path, num_steps: int = 6) -> bytes | None:
    """Draw the difficulty over the training: the middle frame of some clips (`open_pictured`), with their maps below.
    Return None if the run has no maps."""
    file, config = run / "difficulty.jsonl", load_run_config(run)
    geometry = Geometry.of(config)
    units = make_units(geometry.grid, geometry.block)
    rows = read_rows(file, "the difficulty maps of a run, as it writes them") if file.exists() else []
    lines = [row for row in rows if "step" in row and _are_maps(row.get("difficulty"), len(units))]
    lines = [line for line in lines if len(line["difficulty"]) == len(lines[0]["difficulty"])]
    if not lines:
        return None
    lines = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, num_steps).round().astype(int))]
    batch, names, _ = open_pictured(config, len(lines[0]["difficulty"]))
    num_channels, num_frames = batch.clip.shape[1:3]
    middle = num_frames // 2
    pictures = [("middle frame", to_colours(batch.clip)[:, :, middle].permute(0, 2, 3, 1).numpy())]
    for line in lines:
        values = on_tokens(torch.tensor(line["difficulty"]), units)
        maps = _spread(_unit_range(values), config)[: len(names), 0, middle].numpy()
        pictures.append((f"step {line['step']:,}", maps))
    return _draw_grid(pictures, names, (1.3, 1.3), 18, [note_on_channels(num_channels)], scale=True)


def _are_maps(values: Any, num_units: int) -> bool:
    """Return True if this is a list of clips, each with a number for each unit."""
    try:
        found = np.asarray(values, dtype=float)
    except (ValueError, TypeError, OverflowError):
        return False
    return found.ndim == 2 and len(found) > 0 and found.shape[1] == num_units


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-9)

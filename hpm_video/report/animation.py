"""Draw a run as an animated GIF: clips, their masks from easy to hard, reconstructions, difficulty."""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from hpm_video.config import PretrainConfig
from hpm_video.config.choices import TARGETS
from hpm_video.config.geometry import Geometry
from hpm_video.config.needs import masks_by_difficulty
from hpm_video.errors import UserError
from hpm_video.files import write_bytes
from hpm_video.fonts import PLAIN
from hpm_video.method.schedules import num_hard_at
from hpm_video.models.student import Student
from hpm_video.report.pictures import (
    hide,
    note_on_channels,
    note_on_target,
    on_tokens,
    open_pictured,
    open_step,
    overlay,
    rebuild,
    to_rgb,
)
from hpm_video.types import Batch, BatchSlice
from hpm_video.weights.load import load_student

MARK = b"hpm-video show"  # the comment in our own GIFs; other files are never replaced
PANEL_PX, GAP_PX, TEXT_PX = 145, 5, 15
NUM_CLIPS, MOST_FRAMES, NUM_STAGES = 2, 8, 6  # 48 pages
FRAME_MS, STAGE_MS = 120, 360  # time that a page is shown, and the last page of a stage
ALMOST_WHITE = 247
WHITE, INK, BAR = (255, 255, 255), (30, 30, 30), (192, 57, 43)


class Stage(NamedTuple):
    """A setting of the masks: its caption, its progress (0 to 1), and its values of the schedule."""

    text: str
    progress: float
    num_hard: int
    sharpness: float | None


def write_gif(run: Path, out: Path, clips: Sequence[int] | None = None) -> Path:
    """Write the GIF of a pretraining run; return the file. Raises UserError, also if another program wrote `out`.

    clips: numbers of the clips, as `open_pictured` lists them; None = the first two.
    """
    check_target(out)
    write_bytes(out, draw_gif(run, clips))
    return out


def check_target(out: Path) -> None:
    """Raise UserError unless `out` ends in .gif and is new or was written by this command."""
    from PIL import Image, UnidentifiedImageError

    if out.suffix.lower() != ".gif" or out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--gif: {out}; expected FILE.gif in a folder that exists")
    if not (out.exists() or out.is_symlink()):
        return
    try:
        with Image.open(out) as image:
            own = image.info.get("comment") == MARK
    except (UnidentifiedImageError, OSError):
        own = False
    if not own:
        raise UserError(f"--gif: {out} is a file that hpm-video show did not write; expected another name")


def draw_gif(run: Path, clips: Sequence[int] | None = None) -> bytes:
    """Return the GIF: the clips of `open_pictured` play once for each stage of the masks, in the order of the schedule."""
    config, student = load_student(run)
    chosen = range(max(1, min(NUM_CLIPS, config.train.num_pictures))) if clips is None else clips
    batch, names, num_samples = open_pictured(config, max(chosen) + 1)
    if clips is not None and max(clips) >= len(names):
        raise UserError(f"--clips: {max(clips)}; expected at most {len(names) - 1}, as there are {len(names)} clips")
    batch = _take(batch, [number for number in chosen if number < len(names)])
    num_frames = config.data.num_frames
    times = np.linspace(0, num_frames - 1, min(MOST_FRAMES, num_frames)).round().astype(int)
    channels = note_on_channels(batch.clip.shape[1])
    notes = [_note_on_mask(config, num_samples), note_on_target(config.objective.target), channels]
    pages, durations = [], []
    for stage in list_stages(config):
        panels = draw_panels(config, student, run, (batch, num_samples), stage)
        for time in times:
            pages.append(draw_page({name: frames[:, time] for name, frames in panels.items()}, stage, notes))
            durations.append(FRAME_MS if time != times[-1] else STAGE_MS)
    return to_gif(pages, durations)


def _take(batch: Batch, rows: list[int]) -> Batch:
    crop = None if batch.crop is None else batch.crop[rows]
    return batch._replace(clip=batch.clip[rows], label=batch.label[rows], sample=batch.sample[rows], crop=crop)


def list_stages(config: PretrainConfig) -> list[Stage]:
    """Return the stages: by the share of hard units; if it is constant, by the sharpness; else one stage."""
    mask, shares = config.mask, np.linspace(0, 1, NUM_STAGES).tolist()
    if not masks_by_difficulty(config):
        return [Stage("random masks", 1.0, 0, mask.sharpness)]
    num_masked = Geometry.of(config).num_masked
    counts = [num_hard_at(share, mask.hard_share_start, mask.hard_share_end, num_masked) for share in shares]
    if counts[0] != counts[-1]:
        texts = [
            f"masks at {share:.0%} of the run: {count} of {num_masked} tubes chosen by difficulty"
            for share, count in zip(shares, counts, strict=True)
        ]
        return [Stage(*row, mask.sharpness) for row in zip(texts, shares, counts, strict=True)]
    if mask.sharpness:
        values = [share * mask.sharpness for share in shares]
        return [
            Stage(f"masks at sharpness {value:+.1f}", share, counts[0], value)
            for share, value in zip(shares, values, strict=True)
        ]
    return [Stage(f"{counts[0]} of {num_masked} tubes chosen by difficulty", 1.0, counts[0], mask.sharpness)]


def _note_on_mask(config: PretrainConfig, num_samples: int) -> str:
    note = "Grey: hidden from the encoder"
    if masks_by_difficulty(config):
        note += f". Difficulty ({config.mask.difficulty}): dark = easy, bright = hard"
    return f"{note}. Shows training clips" if num_samples else note


def draw_panels(
    config: PretrainConfig, student: Student, run: Path, clips: tuple[Batch, int], stage: Stage
) -> dict[str, Float[ndarray, "B T H W C"]]:
    """Return the panels of a stage by their label, with values in 0 to 1. All stages use the same random draws.

    clips: a batch, and the size of the training set if the batch is from it (else 0), as `open_pictured` returns them.
    """
    settings = replace(config, mask=replace(config.mask, sharpness=stage.sharpness))
    step, engine, clip = open_step(settings, student, run, clips[0].clip, clips[1])
    place, num_hard = BatchSlice(0, len(clip), len(clip)), max(1, stage.num_hard)
    with torch.no_grad():
        journey = step.forward(engine, clip, place, 0, stage.num_hard, decode_all=True, batch=clips[0])
        shown = step.forward(engine, clip, place, 0, num_hard, batch=clips[0]) if step.uses_difficulty else journey
    panels = {"clip": to_rgb(clip, config), "mask": to_rgb(hide(clip, journey, config), config)}
    if TARGETS[config.objective.target].is_pixels:
        panels["reconstruction"] = to_rgb(rebuild(clip, journey, config), config)
    if shown.difficulty is not None:
        grey = clip.mean(1, keepdim=True).expand_as(clip)  # so that all colours are of the difficulty
        panels["difficulty"] = overlay(grey, on_tokens(shown.difficulty, shown.units), config)
    return panels


def draw_page(panels: dict[str, ndarray], stage: Stage, notes: list[str]) -> Any:
    """Draw a page: the stage with its progress bar, a column for each panel, a row for each clip, and the notes below."""
    from PIL import Image, ImageDraw

    num_clips, side = len(next(iter(panels.values()))), PANEL_PX + GAP_PX
    width, top, line = GAP_PX + 4 * side, 3 * TEXT_PX + 14, TEXT_PX + 4
    notes = [text for text in notes if text]
    page = Image.new("RGB", (width, top + num_clips * side + len(notes) * line + 4), WHITE)
    draw = ImageDraw.Draw(page)
    draw.text((GAP_PX, 2), stage.text, INK, font=_font(TEXT_PX))
    draw.rectangle((GAP_PX, line + 4, width - GAP_PX, line + 9), (225, 225, 225))
    draw.rectangle((GAP_PX, line + 4, GAP_PX + round(stage.progress * (width - 2 * GAP_PX)), line + 9), BAR)
    for column, (name, frames) in enumerate(panels.items()):
        left = GAP_PX + column * side
        draw.text((left + PANEL_PX // 2, top - 4), name, INK, font=_font(TEXT_PX), anchor="ms")
        for row, frame in enumerate(frames):
            picture = Image.fromarray((frame * 255).round().astype(np.uint8))
            way = Image.Resampling.NEAREST if max(picture.size) < PANEL_PX else Image.Resampling.LANCZOS
            page.paste(picture.resize((PANEL_PX, PANEL_PX), way), (left, top + row * side))
    for number, text in enumerate(notes):
        font = _font_that_fits(text, width - 2 * GAP_PX)
        draw.text((GAP_PX, top + num_clips * side + number * line), text, INK, font=font)
    return page


def _font(size: int) -> Any:
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont(PLAIN), size)


def _font_that_fits(text: str, width: int) -> Any:
    size = TEXT_PX - 1
    while size > 8 and _font(size).getlength(text) > width:
        size -= 1
    return _font(size)


def to_gif(pages: list[Any], durations: list[int]) -> bytes:
    """Return pages as a GIF that repeats. All pages share one palette, so that nothing flickers."""
    from PIL import Image

    some = pages[:: math.ceil(len(pages) / 12)]
    together = Image.fromarray(np.concatenate([np.asarray(page) for page in some]))
    palette = together.quantize(256, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[colours.min(1) > ALMOST_WHITE] = 255  # the background is exactly that of the document around it
    palette.putpalette(colours.flatten().tolist())
    first, *others = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=durations, loop=0, comment=MARK)
    return buffer.getvalue()

"""What pictures say: names in any script, a scale, single points, plain ticks."""

import dataclasses
import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm_video import fonts
from hpm_video.cli import main
from hpm_video.data import transforms
from hpm_video.evals.finetuned import charts
from hpm_video.evals.finetuned.charts import draw_confusion, draw_timeline
from hpm_video.models.student import Student
from hpm_video.preprocess.encode import write_video
from hpm_video.report import animation, curves, pictures
from hpm_video.report.curves import CURVES, draw_curves
from hpm_video.types import Batch

TINY = (
    "data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 model.depth=1 "
    "model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 optim.batch_size=4 "
    "train.steps=2 train.log_every_steps=1 train.measure_every_steps=2 train.num_pictures=2 engine.num_threads=1"
).split()
CLASSES = ["打架", "jump $5 and $6", "नृत्य", "wave"]


@pytest.fixture()
def drawn(monkeypatch) -> list:
    """Every figure that is drawn."""
    figures = []
    for module in (pictures, curves, charts):
        finish = module.to_png
        monkeypatch.setattr(
            module, "to_png", lambda figure, finish=finish, **how: figures.append(figure) or finish(figure, **how)
        )
    return figures


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_names_that_no_font_has_are_numbers(drawn) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing is a warning
        draw_confusion(np.eye(4, dtype=np.int64), CLASSES)
        draw_timeline(np.arange(2.0), np.arange(1.0, 3.0), np.full((2, 4), 0.25), CLASSES, "打架 \x1b[31m.mp4")
    for number, name in enumerate(CLASSES):
        shown = name.replace("$", r"\$") if fonts.can_draw(name) else f"class {number}"
        assert f"{shown}  {number}" in texts(drawn[0]) and shown in texts(drawn[1])
    assert fonts.can_draw("wave é ü Ω") and not fonts.can_draw("a\x1b")
    assert not any("Last Resort" in family for family, _ in fonts._charmaps())  # comes with matplotlib, draws boxes
    assert fonts.name_file("a/very/long/name.mp4", 10) == "…/name.mp4"


def test_a_single_measurement_is_seen_and_ticks_are_plain(tmp_path, drawn) -> None:
    for name, steps in (("hpm", 1), ("many", 9)):
        (tmp_path / name).mkdir()
        lines = [{"seconds": 60.0 * n, "pixel_loss": 1.0007 + n * 1e-6, "lr": 1e-4 + n * 1e-6} for n in range(steps)]
        lines.append({"seconds": 1e3, "pixel_loss": None})  # was not finite
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pixels = np.asarray(Image.open(io.BytesIO(draw_curves({"hpm": tmp_path / "hpm"}))).convert("RGB")).astype(int)
    assert (np.abs(pixels - [0xC0, 0x39, 0x2B]).max(2) < 8).sum() > 20
    titles = [axis.get_title() for axis in drawn[0].axes if axis.get_title()]
    assert titles == [CURVES["pixel_loss"], CURVES["lr"]]  # what was not measured has no panel
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "metrics.jsonl").write_text("")
    draw_curves({"none": tmp_path / "none"})
    assert texts(drawn[1]).count("not measured") == len(CURVES)
    draw_curves({"many": tmp_path / "many"})
    for axis in drawn[2].axes:
        for one in (axis.xaxis, axis.yaxis):
            assert not one.get_offset_text().get_text()
            labels = [tick.get_text() for tick in one.get_ticklabels()]
            assert len(set(labels)) == len(labels)
            assert all(re.fullmatch(r"|[-−]?\d+(\.\d+)?", text) for text in labels)
    assert len(set(CURVES.values())) == len(CURVES)


def write_samples(root: Path, images: bool) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        frames = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
        if images:
            Image.fromarray(frames[0]).save(root / f"打架 {number}.png")
        else:
            write_video(root / f"打架 {number}.mkv", frames, 10)


def names_of_training(run: Path) -> list[str]:
    """The clips of the pictures of a run that knows the difficulty of training clips alone."""
    config = pictures.load_run_config(run)
    return pictures.open_pictured(config, max(1, config.train.num_pictures))[1]


@pytest.mark.parametrize("preset", ["hpm", "hpm_teacher"])
@pytest.mark.parametrize("images", [False, True], ids=["videos", "images"])
def test_pictures_of_a_run_say_what_they_show(tmp_path, drawn, capsys, images, preset) -> None:
    (tmp_path / "data").mkdir()
    write_samples(tmp_path / "data", images)
    run = tmp_path / "run"
    keys = ["data.num_frames=1", "model.tubelet=1"] if images else ["data.num_frames=4"]
    where = [f"data.root={tmp_path / 'data'}", f"train.output={run}"]
    assert main(["pretrain", *TINY, *keys, f"preset={preset}", "mask.decoded_share=1", *where]) == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        assert main(["show", "--out", str(tmp_path / "out"), str(run)]) == 0
    said = capsys.readouterr().out
    assert all(f"{tmp_path / 'out' / name}.png" in said for name in ("clips", "difficulty", "curves"))
    assert "Next: hpm-video score" in said
    clips, difficulty, _ = (texts(figure) for figure in drawn)
    pictured = json.loads((run / "held_out.json").read_text())[:1] if "teacher" in preset else names_of_training(run)
    for shown in (clips, difficulty):
        assert "difficulty within the clip: bright = hard" in shown and {"easiest", "hardest"} <= set(shown)
        for name in pictured:
            assert fonts.name_file(name, 18) in shown or fonts.name_file(name, 14) in shown
    note = "Reconstructions use the true mean and standard deviation of each patch"
    assert any(text.startswith(note) for text in clips)
    assert any("Time runs to the right" in text for text in clips) is not images
    gif = tmp_path / "run.gif"
    for words in ([], ["--clips", "0"]):  # its own file may be written again
        assert main(["show", str(run), "--gif", str(gif), *words]) == 0
    assert main(["show", str(run), "--gif", str(gif), "--clips", "9"]) == 1
    assert "--clips: 9; expected at most" in capsys.readouterr().err
    with Image.open(gif) as image:
        assert image.n_frames == (6 if images else 24) and image.width >= 600 and gif.stat().st_size < 1_500_000


def test_a_run_that_remembers_shows_training_clips_with_what_it_knows_of_them(tmp_path, drawn) -> None:
    (tmp_path / "data").mkdir()
    write_samples(tmp_path / "data", images=False)
    run, keys = tmp_path / "run", ["data.num_frames=4", "preset=hpm", "mask.decoded_share=1", "train.steps=4"]
    assert main(["pretrain", *TINY, *keys, f"data.root={tmp_path / 'data'}", f"train.output={run}"]) == 0
    config = pictures.load_run_config(run)
    batch, names, num_samples = pictures.open_pictured(config, 2)
    assert num_samples == 5 and not set(names) & set(json.loads((run / "held_out.json").read_text()))
    assert batch.crop is not None
    pictures.draw_clips(run)
    shown = texts(drawn[0])
    assert "easy mask" in shown and "difficulty (memory)" in shown  # sharpness -3
    assert any("Training clips: other clips have no known difficulty" in text for text in shown)
    step, engine, clip = pictures.open_step(config, pictures.load_student(run)[1], run, batch.clip, num_samples)
    journey = step.forward(engine, clip, pictures.BatchSlice(0, 2, 2), 0, 2, batch=batch)
    assert journey.difficulty is not None and float(journey.difficulty.std()) > 0  # the table that the run left
    (tmp_path / "run.gif").write_bytes(animation.draw_gif(run, [1, 0]))
    with Image.open(tmp_path / "run.gif") as image:
        assert image.n_frames == 24  # from sharpness 0 to -3


@pytest.mark.parametrize(
    ("channels", "note"),
    [
        (1, "One channel, drawn in grey"),
        (2, "First of 2 channels, drawn in grey"),
        (3, ""),
        (4, "First 3 of 4 channels, drawn as red, green and blue"),
    ],
)
def test_clips_of_any_number_of_channels_are_drawn(tiny_config, monkeypatch, tmp_path, drawn, channels, note) -> None:
    """Readers and configuration files give 3 channels; models take any number, as many as data.mean has values."""
    config = tiny_config()
    data = dataclasses.replace(config.data, mean=[0.5] * channels, std=[0.25] * channels)
    config = dataclasses.replace(config, data=data)
    student = Student.of(config)
    frames = torch.randint(256, (2, channels, 4, 16, 16), dtype=torch.uint8)
    batch = Batch(frames, torch.zeros(2), torch.arange(2))
    for module in (pictures, animation):
        monkeypatch.setattr(module, "load_student", lambda run: (config, student))
        monkeypatch.setattr(module, "open_pictured", lambda config, num: (batch, ["a", "b"], 0))
    monkeypatch.setattr(pictures, "load_run_config", lambda run: config)
    monkeypatch.setattr(pictures, "load_beside", lambda run, module: None)
    monkeypatch.setattr(transforms, "check_pixels", lambda clip: None)
    maps = torch.rand(2, 16).tolist()
    (tmp_path / "difficulty.jsonl").write_text(json.dumps({"step": 1, "difficulty": maps}) + "\n")
    pictures.draw_clips(tmp_path)
    pictures.draw_difficulty(tmp_path)
    colours = frames[:, [0, 1, 2] if channels >= 3 else [0, 0, 0]].permute(0, 2, 3, 4, 1).numpy()
    for row, panels in enumerate(drawn[0].axes[:12]):  # six rows of two clips
        assert panels.images[0].get_array().shape == (18, 4 * 18, 3), row
    for clip, axis in enumerate(drawn[0].axes[:2]):
        strip = axis.images[0].get_array()
        assert np.allclose(strip[1:17, 1:17] * 255, colours[clip, 0], atol=1e-3)
    for clip, axis in enumerate(drawn[1].axes[:2]):
        assert np.array_equal(axis.images[0].get_array(), colours[clip, 2])  # the middle frame
    assert all(any(note in text for text in texts(figure)) for figure in drawn)
    assert any(", drawn" in text for text in texts(drawn[0])) is bool(note)
    with Image.open(io.BytesIO(animation.draw_gif(tmp_path))) as image:
        assert image.n_frames == 24

"""The material of the arena: its labels against what is seen in the frames, its splits, its files, and the probes."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpm_video.errors import UserError
from hpm_video.preprocess.encode import write_video

HOME = Path(__file__).parents[2] / "benchmarks" / "studies"
MODULES = ("arena_clips", "arena_ale", "arena_items", "arena_playback", "arena_material", "arena_probes")
RED, WHITE, LIGHT = (200, 72, 72), (214, 214, 214), (236, 236, 236)


class Arena:
    """The modules of the arena, which import each other by name."""

    def __init__(self) -> None:
        for name in MODULES:
            setattr(self, name.removeprefix("arena_"), __import__(name))


@pytest.fixture()
def arena(monkeypatch):
    monkeypatch.syspath_prepend(str(HOME))
    return Arena()


@pytest.fixture()
def games(arena):
    pytest.importorskip("ale_py", reason="ale-py is not installed (the extra arena)")
    return arena.ale


@pytest.fixture()
def items(arena, shared_data):
    shared_data("fashion_mnist_t10k")
    return arena.items


@pytest.fixture()
def videos(tmp_path) -> Path:
    """Ten videos of 20 frames of 24 x 32, two of each fold: a column that moves to the right over a colour of the video."""
    rows = []
    for number in range(10):
        frames = np.full((20, 24, 32, 3), 20 * number, np.uint8)
        for time in range(20):
            frames[time, :, time + 4 : time + 8] = 250
        write_video(tmp_path / f"{number}.mkv", frames, 10)
        rows.append({"path": f"{number}.mkv", "fold": number % 5})
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, ["path", "fold"])
        table.writeheader()
        table.writerows(rows)
    return tmp_path


def centre(shown: np.ndarray) -> np.ndarray:
    """x and y [T, 2] of the middle of the marked pixels [T, H, W], in pixels from the top left corner."""
    height, width = shown.shape[1:]
    count = shown.sum((1, 2))
    x = (shown * (np.arange(width) + 0.5)).sum((1, 2)) / count
    y = (shown * (np.arange(height)[:, None] + 0.5)).sum((1, 2)) / count
    return np.stack([x, y], 1)


@pytest.mark.parametrize(
    ("kind", "name", "colour", "rows", "columns", "most_px"),
    [
        ("pong", "ball", LIGHT, (34, 194), (0, 160), 2),
        ("breakout", "ball", RED, (93, 188), (8, 152), 2),
        ("boxing", "player", WHITE, (36, 178), (32, 128), 10),
    ],
)
def test_games_have_their_objects_where_the_labels_say(games, kind, name, colour, rows, columns, most_px) -> None:
    """The place of the colour in whole frames, against positions and velocities from the RAM."""
    game, errors = games.GAMES[kind], []
    size = {"x": game.columns[1] - game.columns[0], "y": game.rows[1] - game.rows[0]}
    start = {"x": game.columns[0], "y": game.rows[0]}
    for frames, rams in games.play(kind, np.random.default_rng(3)):
        part = (frames[:, slice(*rows), slice(*columns)] == colour).all(-1)
        found = games.label(game, rams)
        if np.isnan(found[f"{name} x"]) or not part.any((1, 2)).all():
            continue
        path = centre(part) + (columns[0], rows[0])
        for axis, places in zip("xy", path.T, strict=True):
            velocity = found[f"{name} {axis} velocity"] * size[axis]
            middle = found[f"{name} {axis}"] * size[axis] + start[axis]
            errors.append((7 * velocity - (places[-1] - places[0]), middle - (places[3] + places[4]) / 2))
        if len(errors) == 2 * 8:
            break
    assert len(errors) == 2 * 8
    assert np.median(np.abs(errors), axis=0).max() <= 1.5 and np.abs(errors).max() <= most_px


def test_clips_of_a_game_show_the_labels(games) -> None:
    """In clips of 64 x 64, the ball is what is whiter than the brown ground and the paddles (from their colours)."""
    material = games.make_ale("pong", "train", 1, 12)
    assert material.clips.shape == (12, 8, 64, 64, 3) and material.clips.dtype == torch.uint8
    red, _, blue = (material.clips.numpy().astype(float) - (144, 72, 17)).transpose(4, 0, 1, 2, 3)
    white = np.minimum(blue - 0.83 * red, 4 * red)
    seen = (white > 10).any((2, 3)).all(1)  # not behind the wall
    known = np.nonzero(~np.isnan(material.targets["ball x"]) & seen)[0]
    assert len(known) >= 4
    for number in known:
        path = centre(np.where(white[number] > 10, white[number], 0)) / 64
        for axis, places in zip("xy", path.T, strict=True):
            assert material.targets[f"ball {axis}"][number] == pytest.approx(places[3:5].mean(), abs=1.5 / 64)
            velocity = material.targets[f"ball {axis} velocity"][number]
            assert velocity == pytest.approx((places[-1] - places[0]) / 7, abs=0.2 / 64)


def test_an_object_out_of_play_or_after_a_jump_has_no_label(games) -> None:
    game, rams = games.GAMES["pong"], np.full((22, 128), 100, np.uint8)
    rams[:, 49] += np.arange(22, dtype=np.uint8)
    found = games.label(game, rams)
    assert found["ball x"] == pytest.approx((110.5 - 48.5 + 0.5) / 160) and found["ball y velocity"] == 0
    assert found["ball x velocity"] == pytest.approx(3 / 160) and games.moves(game, rams)
    for byte, value in ((54, 0), (49, 180)):  # no ball; a new ball elsewhere
        other = rams.copy()
        other[9:, byte] = value
        found = games.label(game, other)
        assert np.isnan([found[f"ball {axis}"] for axis in ("x", "y", "x velocity")]).all()
        assert not np.isnan(found["player y"]) and not games.moves(game, other)


def test_a_missing_emulator_is_said(arena, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match="pip install"):
        arena.material.make_material("pong", "train", 0, 1)


def test_items_are_where_the_labels_say(items, monkeypatch) -> None:
    """On black ground, the middle of the red pixels moves with item 1 and lies near its place."""
    monkeypatch.setattr(items, "draw_ground", lambda rng, count, stills: torch.zeros(count, 8, 3, 64, 64))
    material = items.make_items("items", "test", 0, 40, None)
    clips = material.clips.numpy().astype(int)
    red = (clips[..., 0] > 40) & (clips[..., 0] > 1.5 * clips[..., 2])
    found = np.stack([centre(clip) for clip in red]) / 64  # [n, T, 2]
    for number, axis in enumerate("xy"):
        path = found[:, :, number]
        assert np.abs((path[:, -1] - path[:, 0]) / 7 - material.targets[f"item {axis} velocity"]).max() < 0.12 / 64
        offset = path[:, 3:5].mean(1) - material.targets[f"item {axis}"]
        assert np.abs(offset).max() < 5 / 64 and abs(offset.mean()) < 1 / 64
    blue = (clips[..., 2] > 40) & (clips[..., 2] > 1.3 * clips[..., 0])
    assert 10 <= blue.any((1, 2, 3)).sum() <= 30  # about half have a second item
    images, labels = items.read_items("test")
    assert len(labels) == 2000 and set(material.classes["item"]) <= set(labels)


def test_the_ground_moves_in_half_of_the_clips(items) -> None:
    ground = items.draw_ground(np.random.default_rng(0), 60, None)
    assert ground.shape == (60, 8, 3, 64, 64) and 0 <= ground.min() and ground.max() <= 1
    assert 18 <= (ground.diff(dim=1).abs().amax((1, 2, 3, 4)) > 1e-4).sum() <= 42


def test_items_are_repeated_and_the_splits_share_no_image(items) -> None:
    first, again, other = (items.make_items("items", split, 2, 6, None) for split in ("train", "train", "test"))
    assert torch.equal(first.clips, again.clips) and not torch.equal(first.clips, other.clips)
    train, test = (items.read_items(split)[0].flatten(1) for split in ("train", "test"))
    assert len(train) == 8000 and not {row.numpy().tobytes() for row in test} & {row.numpy().tobytes() for row in train}


def test_games_are_repeated_and_the_splits_share_no_play(games) -> None:
    first, again, other = (games.make_ale("boxing", split, 2, 3) for split in ("train", "train", "test"))
    assert torch.equal(first.clips, again.clips) and first.targets.keys() == again.targets.keys()
    for name, values in first.targets.items():
        np.testing.assert_array_equal(values, again.targets[name])
    assert not torch.equal(first.clips, other.clips)


def test_clips_of_games_run_both_ways(games, monkeypatch) -> None:
    """Clips that run backwards have their frames and velocities turned, and the same positions."""
    rams = np.full((22, 128), 100, np.uint8)
    rams[:, 49] += np.arange(22, dtype=np.uint8)
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 210, 160, 3), np.uint8)
    monkeypatch.setattr(games, "play", lambda kind, rng: iter([(frames, rams)] * 40))
    material = games.make_ale("pong", "train", 0, 40)
    backwards = (material.clips[:, 0, 0, 0, 0] == 7).numpy()
    assert 8 < backwards.sum() < 32 and (material.clips[:, 0, 0, 0, 0].numpy()[~backwards] == 0).all()
    np.testing.assert_allclose(material.targets["ball x velocity"], np.where(backwards, -3, 3) / 160, rtol=1e-5)
    assert np.ptp(material.targets["ball x"]) < 1e-6


def test_playback(arena, videos) -> None:
    material = arena.material.make_material("playback", "test", 6, 16, videos)
    forward, reverse, frozen, double = material.clips.view(4, 4, *material.clips.shape[1:]).unbind(1)
    assert material.classes["playback"].tolist() == [0, 1, 2, 3] * 4 and not material.targets
    assert torch.equal(forward.flip(1), reverse) and not torch.equal(forward, reverse)
    assert not frozen.diff(dim=1).any() and forward.diff(dim=1).any()
    assert torch.equal(forward[:, ::2], double[:, :4])
    column = forward[0, :, 32 - 8, :, 0].float().argmax(1)
    assert column[-1] > column[0]  # it moves to the right
    colours = {int(clip[0, 0, 0, 0]) // 10 * 10 for clip in forward}
    assert colours == {20, 120}  # fold 6 % 5
    names = {split: arena.playback.split_videos(videos, split, 6) for split in ("train", "test")}
    assert [len(found) for found in names.values()] == [8, 2] and not set(names["train"]) & set(names["test"])
    again = arena.material.make_material("playback", "test", 6, 16, videos)
    assert torch.equal(again.clips, material.clips)


def test_faults_are_said(arena, tmp_path) -> None:
    make = arena.material.make_material
    for words, match in (
        (("chess", "train", 0, 1, None), "expected one of pong"),
        (("playback", "validation", 0, 1, tmp_path), "expected one of train, test"),
        (("playback", "train", 0, 1, None), "needs real clips"),
        (("playback", "train", 0, 1, tmp_path), "labels.csv: not found"),
    ):
        with pytest.raises(UserError, match=match):
            make(*words)


def test_files_of_material(arena, videos, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "cache"
    made = arena.material.load_material("playback", "train", 1, 8, videos, cache)
    monkeypatch.setitem(arena.material.KINDS, "playback", arena.material.KINDS["playback"]._replace(make=None))
    read = arena.material.load_material("playback", "train", 1, 8, videos, cache)
    assert torch.equal(made.clips, read.clips) and read.targets == {}
    np.testing.assert_array_equal(made.classes["playback"], read.classes["playback"])
    for words in (("train", 2, 8), ("test", 1, 8), ("train", 1, 9)):
        with pytest.raises(TypeError):  # it has to be made
            arena.material.load_material("playback", *words, videos, cache)
    (videos / "labels.csv").write_text((videos / "labels.csv").read_text() + "\n")
    with pytest.raises(TypeError):
        arena.material.load_material("playback", "train", 1, 8, videos, cache)
    assert len(list(cache.iterdir())) == 1


def test_share_of_motion(arena) -> None:
    clips = torch.zeros(3, 8, 64, 64, 3, dtype=torch.uint8)
    clips[0, 4, 3, 5] = 200  # one tube
    clips[1, 4, ::8, ::8] = 200  # all 64 equally: 52 hold 80 %
    assert arena.material.share_of_motion(clips[[0, 2]]) == pytest.approx(1 / 64)
    assert arena.material.share_of_motion(clips[1:]) == pytest.approx(52 / 64)
    assert np.isnan(arena.material.share_of_motion(clips[2:]))


@pytest.mark.parametrize("num_features", [5, 60])
def test_ridge_is_the_solution_of_its_equations(arena, num_features) -> None:
    """Least squares with rows for the penalty; both forms, for fewer and for more features than clips."""
    rng = np.random.default_rng(0)
    x, y, x_test = rng.normal(size=(40, num_features)) + 1, rng.normal(size=(40, 2)), rng.normal(size=(7, num_features))
    for strength, answer in zip(
        (0.1, 10), arena.probes.solve(*map(torch.from_numpy, (x, y, x_test)), (0.1, 10)), strict=True
    ):
        rows = np.concatenate([x - x.mean(0), np.sqrt(strength * 40) * np.eye(num_features)])
        weights = np.linalg.lstsq(rows, np.concatenate([y - y.mean(0), np.zeros((num_features, 2))]), rcond=None)[0]
        np.testing.assert_allclose(answer.numpy(), (x_test - x.mean(0)) @ weights + y.mean(0), atol=1e-9)


def test_a_rare_feature_does_not_decide_a_test_clip(arena) -> None:
    """A column that is 1 in one training clip and 1,000 in a test clip leaves the scores as they are."""
    (x, train), (x_test, test) = make_readable(arena, 400, 0), make_readable(arena, 400, 1)
    x[:, 3], x_test[:, 3] = 0, 0
    x[7, 3], x_test[7, 3] = 1, 1000
    assert arena.probes.probe(x, x_test, train, test).scores["y"] == pytest.approx(0.8, abs=0.05)


def make_readable(arena, count: int, seed: int):
    """Features of 12 columns (one constant); "y" with R2 .8, "gaps" half NaN, "noise"; class "big" from the sign of a feature."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 12))
    x[:, 3] = 7
    y = (x[:, 0] + np.sqrt(0.25) * rng.normal(size=count)).astype(np.float32)
    gaps = np.where(np.arange(count) % 2 == 0, y, np.nan).astype(np.float32)
    targets = {"y": y, "gaps": gaps, "noise": rng.normal(size=count).astype(np.float32)}
    classes = {"big": (x[:, 1] > 0).astype(np.int64), "guess": rng.integers(0, 3, count)}
    return torch.from_numpy(x).float(), arena.clips.Material(torch.empty(count, 0), targets, classes)


def test_probe_of_known_scores(arena) -> None:
    (x, train), (x_test, test) = make_readable(arena, 1500, 0), make_readable(arena, 3000, 1)
    found = arena.probes.probe(x, x_test, train, test)
    assert found.scores["y"] == pytest.approx(0.8, abs=0.02) and found.scores["gaps"] == pytest.approx(0.8, abs=0.03)
    assert abs(found.scores["noise"]) < 0.02 and abs(found.scores["guess"]) < 0.06
    assert found.accuracy["big"] > 0.97 and found.scores["big"] == pytest.approx(
        2 * found.accuracy["big"] - 1, abs=0.02
    )
    for name, losses in found.losses.items():
        assert losses.shape == (3000,) and found.scores[name] == pytest.approx(1 - np.nanmean(losses))
    assert np.array_equal(np.isnan(found.losses["gaps"]), np.arange(3000) % 2 == 1)
    error = (test.targets["y"] - train.targets["y"].mean()) ** 2
    assert np.corrcoef(found.losses["y"] * error.mean(), (test.targets["y"] - x_test[:, 0].numpy()) ** 2)[0, 1] > 0.9


def test_undefined_targets_are_left_out_of_a_probe(arena) -> None:
    """The scores are those without the clips, and NaN if there are hardly any clips."""
    (x, train), (x_test, test) = make_readable(arena, 400, 0), make_readable(arena, 100, 1)
    x, x_test = x.double(), x_test.double()
    every = arena.probes.probe(x, x_test, train, test)
    rows = torch.arange(0, 400, 2)
    x_even = (x - x.mean(0))[rows]
    half = arena.clips.Material(train.clips[rows], {"gaps": train.targets["gaps"][::2]}, {})
    only = arena.probes.fit(
        x_even / x.std(0, correction=0).clamp(min=1e-3),
        [torch.from_numpy(half.targets["gaps"]).double()[:, None]],
        (x_test - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-3),
    )[0][:, 0].numpy()
    truth, mean = test.targets["gaps"][::2], train.targets["gaps"][::2].mean()
    expected = 1 - ((only[::2] - truth) ** 2).mean() / ((truth - mean) ** 2).mean()
    assert every.scores["gaps"] == pytest.approx(expected, abs=1e-5)
    train.targets["gaps"][10:] = np.nan
    assert np.isnan(arena.probes.probe(x, x_test, train, test).scores["gaps"])


def test_one_frame_does_not_tell_the_velocity(items, arena) -> None:
    """Pixels of one frame give nothing. The test of places finds the velocities from two frames."""
    train, test = (items.make_items("items", split, 0, 250, None) for split in ("train", "test"))
    pixels = arena.probes.pixels_of_one
    scores = arena.probes.probe(pixels(train.clips), pixels(test.clips), train, test).scores
    assert all(-0.5 < scores[f"item {axis} velocity"] < 0.1 for axis in "xy")

"""Make clips of Atari games with exact positions of their objects, from the RAM of the emulator (ale-py).

The bytes of the RAM that hold positions are those that AtariARI publishes (Anand et al. 2019, arXiv:1906.08226, MIT
licence). The offsets from a byte to a pixel are our own measurement: the centre of the object's colour in the full frame.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from arena_clips import MIDDLE, NUM_FRAMES, Material, random_stream, shrink
from numpy import ndarray

from hpm_video.errors import import_for

STRIDE = 3  # emulated frames from one frame of a clip to the next
STRETCH = 60  # clips started in a stretch of play
LONGEST_WAIT, LONGEST_GAP = 400, 12  # emulated frames before the first clip, and between clips
LONGEST_REPEAT = 12  # emulated frames of one action
FASTEST_PX = 14  # of an object in one emulated frame; more is a jump (a new ball, a tunnel)
LEAST_PX = 2  # path of the main object in a clip that counts as moving
KEEP_STILL = 0.25  # share of the clips without motion of the main object that is kept
SKILL, LONGEST_CHASE = 0.7, 4  # share of actions that follow the ball; emulated frames of such an action
ALWAYS = (0, 255)  # the object is in play at every value


class Axis(NamedTuple):
    """Turn a byte of the RAM into the pixel of the object's centre: pixel = sign * byte + offset."""

    byte: int
    offset: float
    visible: tuple[int, int] = ALWAYS  # values of the byte while the object is in play
    sign: int = 1


class Chase(NamedTuple):
    """Describe how to follow the ball: the own object, the axis, and the actions that lower and raise its pixel."""

    own: str
    axis: str
    lower: int
    raise_: int


class Game(NamedTuple):
    """Describe a game: its playing field in pixels of the frame, its objects (the first is the main one)."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    objects: dict[str, dict[str, Axis]]  # object -> "x", "y" -> axis
    warm_up: int  # emulated frames before play begins
    flickers: bool = False  # the game draws some objects in every second frame only
    chase: Chase | None = None  # random play alone loses every ball


def _ghost(x: int, y: int) -> dict[str, Axis]:
    return {"x": Axis(x, -8.4), "y": Axis(y, 5.9)}


GAMES = {
    "pong": Game(
        (34, 194),
        (0, 160),
        {
            "ball": {"x": Axis(49, -48.5, (50, 204)), "y": Axis(54, -12.5, (45, 206))},
            "player": {"y": Axis(51, -5.5)},
            "enemy": {"y": Axis(50, -7.5, (34, 200))},
        },
        warm_up=60,
        chase=Chase("player", "y", 3, 4),
    ),
    "breakout": Game(
        (32, 196),
        (8, 152),
        {"ball": {"x": Axis(99, -48.5), "y": Axis(101, 10.5, (1, 174))}, "paddle": {"x": Axis(72, -39.5)}},
        warm_up=60,
        chase=Chase("paddle", "x", 4, 3),
    ),
    "boxing": Game(
        (36, 178),
        (32, 128),
        {
            "player": {"x": Axis(32, 11.4), "y": Axis(34, 61.0)},
            "enemy": {"x": Axis(33, 9.6), "y": Axis(35, 60.0)},
        },
        warm_up=60,
    ),
    "ms_pacman": Game(
        (0, 172),
        (0, 160),
        {
            "player": {"x": Axis(10, -8.3), "y": Axis(16, 5.4)},
            "sue": _ghost(6, 12),
            "inky": _ghost(7, 13),
            "pinky": _ghost(8, 14),
            "blinky": _ghost(9, 15),
        },
        warm_up=270,
        flickers=True,
    ),
    "freeway": Game((14, 198), (8, 160), {"chicken": {"y": Axis(14, 196.8, sign=-1)}}, warm_up=60),
}


def load_ale() -> Any:
    """Import ale-py, and silence it. Raises UserError if it is not installed."""
    ale_py = import_for("a clip of a game", "ale_py", "hpm-video[arena]")
    import_for("a clip of a game", "ale_py.roms", "hpm-video[arena]")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


def make_ale(kind: str, split: str, seed: int, count: int) -> Material:
    """Play a game at random and return clips of it. Each stretch of play has its own seed; train and test share none.

    Every second clip, drawn at random, runs backwards. So one frame (a paddle that lags behind its ball, a figure that looks
    to the left) cannot tell the direction of a motion: the expected velocity of an object, given one frame, is 0.
    """
    game, clips, targets = GAMES[kind], [], []
    stretches = random_stream(kind, split, seed)
    while len(clips) < count:
        stretch = play(kind, np.random.default_rng(stretches.integers(2**63, size=2)))
        for frames, rams in islice(stretch, count - len(clips)):
            if stretches.random() < 0.5:
                frames, rams = frames[::-1], rams[::-1]
            clips.append(shrink(frames[:, slice(*game.rows), slice(*game.columns)]))
            targets.append(label(game, rams))
    table = {name: np.array([row[name] for row in targets], np.float32) for name in targets[0]}
    return Material(torch.from_numpy(np.stack(clips)), table, {})


def play(kind: str, rng: np.random.Generator) -> Iterator[tuple[ndarray, ndarray]]:
    """Yield clips of one stretch of play: frames uint8 [8, 210, 160, 3], RAM uint8 [22, 128] of every emulated frame.

    Actions are random and held for 1 to LONGEST_REPEAT frames; the share SKILL of them follows the ball. Of the clips whose
    main object does not move, only the share KEEP_STILL is kept.
    """
    ale_py, game = load_ale(), GAMES[kind]
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", int(rng.integers(2**31)))
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(ale_py.roms.get_rom_path(kind))
    step = _player(ale, game, rng)
    for _ in range(game.warm_up + int(rng.integers(LONGEST_WAIT))):
        step()
    for _ in range(STRETCH):
        for _ in range(int(rng.integers(LONGEST_GAP)) + 1):
            step()
        must_move = rng.random() >= KEEP_STILL
        clip = _record(ale, step, game, must_move)
        if clip is not None and (not must_move or moves(game, clip[1])):
            yield clip


def _record(ale: Any, step: Callable[[], None], game: Game, must_move: bool) -> tuple[ndarray, ndarray] | None:
    """Return the frames and the RAM of a clip, or None as soon as the main object leaves the play, if it must move."""
    frames, rams = [], []
    for time in range(STRIDE * (NUM_FRAMES - 1) + 1):
        shown = time % STRIDE == 0
        before = ale.getScreenRGB() if game.flickers and shown else None
        step()
        rams.append(ale.getRAM().copy())
        if must_move and track(game, next(iter(game.objects)), rams[-1][None]) is None:
            return None
        if shown:
            screen = ale.getScreenRGB()
            frames.append(screen if before is None else np.maximum(before, screen))
    return np.stack(frames), np.stack(rams)


def _player(ale: Any, game: Game, rng: np.random.Generator) -> Callable[[], None]:
    """Return a function that emulates one frame. It holds each action for a random time, and restarts ended games."""
    actions = ale.getMinimalActionSet()
    left, action = 0, actions[0]

    def step() -> None:
        nonlocal left, action
        if left == 0:
            follows = game.chase is not None and rng.random() < SKILL
            action = _follow(game, ale.getRAM()) if follows else actions[rng.integers(len(actions))]
            left = int(rng.integers(LONGEST_CHASE if follows else LONGEST_REPEAT)) + 1
        left -= 1
        ale.act(action)
        if ale.game_over():
            ale.reset_game()

    return step


def _follow(game: Game, ram: ndarray) -> int:
    """Return the action that moves the own object towards the ball."""
    own, axis, lower, raise_ = game.chase
    place, goal = (
        read.sign * int(ram[read.byte]) + read.offset for read in (game.objects[name][axis] for name in (own, "ball"))
    )
    return raise_ if goal > place else lower


def track(game: Game, name: str, rams: ndarray) -> dict[str, ndarray] | None:
    """Return the pixels [T] of an object's axes, or None if it is not in play all the time, or jumps."""
    paths = {}
    for axis, (byte, offset, (low, high), sign) in game.objects[name].items():
        values = rams[:, byte].astype(np.int64)
        if values.min() < low or values.max() > high or np.abs(np.diff(values)).max(initial=0) > FASTEST_PX:
            return None
        paths[axis] = sign * values + offset
    return paths


def moves(game: Game, rams: ndarray) -> bool:
    """Return True if the main object is in play and its path is at least LEAST_PX long."""
    paths = track(game, next(iter(game.objects)), rams)
    return paths is not None and sum(np.abs(np.diff(path)).sum() for path in paths.values()) >= LEAST_PX


def label(game: Game, rams: ndarray) -> dict[str, float]:
    """Return position (at the middle of the clip) and velocity of each object, NaN if it is not in play, or jumps.

    Units: shares of the playing field from its top left; shares for each frame of the clip.
    """
    fields = {"x": game.columns, "y": game.rows}
    found = {}
    for name, axes in game.objects.items():
        paths = track(game, name, rams)
        for axis in axes:
            low, high = fields[axis]
            place = velocity = float("nan")
            if paths is not None:
                path = (paths[axis] + 0.5 - low) / (high - low)
                place = float(np.interp(MIDDLE * STRIDE, np.arange(len(path)), path))
                velocity = float(path[-1] - path[0]) / (NUM_FRAMES - 1)
            found |= {f"{name} {axis}": place, f"{name} {axis} velocity": velocity}
    return found

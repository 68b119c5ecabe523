"""Classify any videos with a fine-tuned run; long ones window by window, read piece by piece.

Each window is classified as a video is in a test. Dense sampling: a window is as long as a clip, num_frames * stride frames,
and a longer video has several. Segments: the whole video is one window. A length or a distance in seconds cuts windows by
the time stamps of the frames, whatever the rule and the frame rate.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from hpm_video.catalog.listing import SUFFIXES, list_folder, list_frames
from hpm_video.config import DataConfig, FinetuneConfig
from hpm_video.config.data_sets import SamplingProtocol, read_protocol
from hpm_video.data.readers.limits import Limits
from hpm_video.data.readers.probe import read_timeline
from hpm_video.data.readers.read import read_item
from hpm_video.data.sampling import choose_protocol
from hpm_video.data.source import open_source
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.evals.finetuned.charts import draw_timeline
from hpm_video.evals.finetuned.views import ViewClassifier, choose_frames, cut_views, to_probabilities
from hpm_video.evals.summary import tell_probabilities
from hpm_video.files import OwnFolder, own_folder, write_bytes, write_json
from hpm_video.item import Item
from hpm_video.preprocess.jobs import SPECIAL, is_special
from hpm_video.progress import Progress
from hpm_video.reading import parse_json, read_json
from hpm_video.train.engines.start import prepare_process
from hpm_video.weights.load import load_classifier

log = logging.getLogger("hpm_video")
PIECE_BYTES = 128 << 20  # of decoded frames held at one time (one window is always held whole)
ASSUMED_FPS = 25.0  # of what has no time stamps: folders of frames
SAME_S = 2e-3  # times that are less apart are the same: containers round to milliseconds


class Window(NamedTuple):
    """Frames start to stop - 1, and the time that they stand for."""

    start: int
    stop: int
    begin_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Probabilities of each window of a video, and when it begins and ends."""

    video: str
    classes: list[str]
    begins_s: Float[ndarray, " W"]
    ends_s: Float[ndarray, " W"]
    probabilities: Float[ndarray, "W K"]

    def overall(self, num: int) -> list[tuple[str, float]]:
        """The most probable classes of the whole video: the mean over its windows."""
        return self.top(self.probabilities.mean(0), num)

    def top(self, probabilities: Float[ndarray, " K"], num: int) -> list[tuple[str, float]]:
        return [(self.classes[k], float(probabilities[k])) for k in np.argsort(-probabilities, kind="stable")[:num]]

    def as_json(self, num: int) -> dict[str, Any]:
        windows = zip(self.begins_s.tolist(), self.ends_s.tolist(), self.probabilities, strict=True)
        return {
            "video": self.video,
            "classes": dict(self.overall(num)),
            "windows": [{"begin_s": b, "end_s": e, "classes": dict(self.top(p, num))} for b, e, p in windows],
        }


class Film:
    """Frames of one video by number, decoded when asked for. Raises UnreadableVideo."""

    def __init__(self, path: Path, config: DataConfig) -> None:
        self.item, self.config, self.num_frames = Item(str(path), path, -1), config, 0
        self.frame_bytes = self.read(np.zeros(1, dtype=np.int64)).nbytes
        self.times_s = self._find_times()

    def read(self, wanted: Int[ndarray, " n"]) -> UInt8[ndarray, "n H W C"]:
        """`num_frames` is then what the reader found: less than before where a file breaks off."""

        def choose(count: int) -> ndarray:
            self.num_frames = count
            return np.minimum(wanted, count - 1)

        return read_item(self.item, choose, self.config.reader, self.config.fps, Limits.of(self.config))

    def _find_times(self) -> Float[ndarray, " m"]:
        """[num_frames + 1]: when each frame is shown, and when the last one ends, in seconds from the first."""
        count, fps = self.num_frames, self.config.fps or ASSUMED_FPS
        if count > 1 and self.config.fps is None and Path(str(self.item.media)).is_file():
            times = read_timeline(str(self.item.media), Limits.of(self.config)).times_s[:count]
            if len(times) > 1:
                step = float(np.median(np.diff(times)))
                return np.append(times, times[-1] + step * np.arange(1, count - len(times) + 2))
        return np.arange(count + 1) / fps


class Predictor:
    """A fine-tuned run, asked about videos as it is in a test. Raises UserError."""

    def __init__(self, run: Path, window_s: float | None = None, every_s: float | None = None) -> None:
        """window_s: length of a window, every_s: from the start of one to the next, in seconds; see `windows`."""
        self.config, model, self.classes = load_classifier(run, ["engine.kind=auto"])
        self.classifier = ViewClassifier(model, self.config, prepare_process(self.config))
        self.sampling, self.num_clips, self.num_crops = find_protocol(run, self.config)
        self.window_s, self.every_s = window_s, every_s

    def predict(self, path: Path) -> Prediction:
        """Raises UnreadableVideo."""
        film = Film(path, self.config.data)
        windows = self.windows(film)
        rows = list(self._answer(film, windows))
        done = windows[: len(rows)]
        return Prediction(
            video=str(path),
            classes=self.classes,
            begins_s=np.array([window.begin_s for window in done]),
            ends_s=np.array([window.end_s for window in done]),
            probabilities=np.stack(rows),
        )

    def windows(self, film: Film) -> list[Window]:
        data, times, num_frames = self.config.data, film.times_s, film.num_frames
        length = (data.num_frames - 1) * data.stride + 1 if self.sampling == "dense" else num_frames
        if self.window_s is None and (self.every_s is None or self.sampling == "dense"):
            return slide(times, length, self.every_s)
        seconds = self.window_s or self.every_s
        assert seconds is not None
        return slide_seconds(times, seconds, self.every_s or seconds)

    def _answer(self, film: Film, windows: list[Window]) -> Iterator[Float[ndarray, " K"]]:
        """Probabilities of each window; ends early where the file breaks off."""
        data, average = self.config.data, self.config.test.average
        span = (data.num_frames - 1) * data.stride + 1
        longest = max(w.stop - w.start for w in windows)
        num_clips = 1 if self.sampling == "dense" and longest <= span else self.num_clips
        wanted = num_clips * data.num_frames
        at_once = max(1, PIECE_BYTES // (wanted * film.frame_bytes))
        pace = Progress(film.item.name, "windows", len(windows), bar=False)
        for first in range(0, len(windows), at_once):
            piece = windows[first : first + at_once]
            chosen = [w.start + choose_frames(self.sampling, w.stop - w.start, num_clips, data) for w in piece]
            frames = film.read(np.concatenate(chosen))
            for number, part in enumerate(np.split(frames, len(piece)), first):
                if number and windows[number].start >= film.num_frames:
                    log.warning("%s breaks off after %d frames", film.item.name, film.num_frames)
                    return
                scores = self.classifier(cut_views(part, num_clips, self.num_crops, data))
                yield to_probabilities(scores, average).numpy()
            pace.show(first + len(piece))


def slide(times_s: Float[ndarray, " m"], length: int, every_s: float | None = None) -> list[Window]:
    """Windows of `length` frames, one starting where the other ends or `every_s` seconds after it began, a last one at the
    end of the video; of a video that is shorter, the whole. times_s: of the frames, and the end of the last one."""
    num_frames = len(times_s) - 1
    if num_frames <= length:
        starts = [0]
    else:
        last = num_frames - length
        starts = list(range(0, last + 1, length))
        if every_s is not None:
            starts = sorted({_frame_at(times_s, t) for t in np.arange(0, times_s[last] + SAME_S, every_s)})
        if starts[-1] < last:
            starts.append(last)
    stops = [min(start + length, num_frames) for start in starts]
    return [Window(i, j, float(times_s[i]), float(times_s[j])) for i, j in zip(starts, stops, strict=True)]


def slide_seconds(times_s: Float[ndarray, " m"], length_s: float, every_s: float) -> list[Window]:
    """Windows of `length_s` seconds, one starting `every_s` after the other, a last one at the end of the video; of a video
    that is shorter, the whole. A window holds the frames that begin in it, or if none does the one that is shown then."""
    end = float(times_s[-1])
    if end <= length_s + SAME_S:
        return [Window(0, len(times_s) - 1, 0.0, end)]
    begins = np.arange(0, end - length_s + SAME_S, every_s)
    if begins[-1] + length_s < end - SAME_S:
        begins = np.append(begins, end - length_s)
    windows = []
    for begin in begins.tolist():
        first, stop = np.searchsorted(times_s[:-1], (begin - SAME_S, begin + length_s - SAME_S)).tolist()
        if stop <= first:
            first, stop = first - 1, first
        windows.append(Window(first, stop, begin, min(begin + length_s, end)))
    return windows


def _frame_at(times_s: Float[ndarray, " m"], time_s: float) -> int:
    """The frame that begins at a time, or the next one."""
    return int(np.searchsorted(times_s[:-1], time_s - SAME_S))


def find_protocol(run: Path, config: FinetuneConfig) -> SamplingProtocol:
    """Return how the run's own data set is sampled and tested: by its configuration, else by a test of the run, else by
    data.root itself. Raises UserError if it cannot be found out."""
    given = (config.data.sampling != "auto", config.test.num_clips, config.test.num_crops)
    known = None if all(given) else _find_known(run, config)
    return choose_protocol(known, f"the data set of {run}", config.data, config.test)


def _find_known(run: Path, config: FinetuneConfig) -> SamplingProtocol | None:
    for file in sorted(run.glob("tests/*/results.json")):
        try:
            about = read_json(file, dict, "the results of a test")["test"]
            if about["root"] == config.data.root:
                return read_protocol({"name": about["set_name"], "protocol": about.get("protocol")}, str(file))
        except (UserError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s tells nothing of the data set: %s", file, error)
    try:
        source = open_source(config.data, "train")
    except UserError as error:
        raise UserError(
            f"{run} was never tested, and its data set cannot be asked how it is sampled ({error}); expected data.sampling, "
            f"test.num_clips and test.num_crops in {run / 'config.yaml'}"
        ) from error
    return source.protocol if source is not None else None


def list_samples(given: Sequence[Path]) -> list[Path]:
    """Files and folders of frames as they are, folders as the videos in them and below, or else as their folders of frames;
    each once. Raises UserError for a folder without either."""
    found: list[Path] = []
    for path in given:
        found += _list_folder(path) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def _list_folder(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in list_folder(folder)]
    except UserError:  # no video
        if list_frames(folder):
            return [folder]
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and list_frames(path)]
    if not below:
        raise UserError(
            f"{folder}: holds neither videos nor frames; expected videos ({' '.join(SUFFIXES)}) or pictures"
        )
    return below


def predict_videos(predictor: Predictor, videos: Sequence[Path], out: Path, num_top: int) -> Iterator[str | Exception]:
    """For each video what to say of it, or why it could not be read; writes OUT/NAME.json and, of several windows,
    OUT/NAME.png."""
    with own_folder(out, "hpm-video predict", find_older_predictions) as own:
        yield from _predict_videos(predictor, videos, own, num_top)


def find_older_predictions(folder: Path) -> list[str] | None:
    """Return the files of predictions of before there were marks; None if the folder holds anything else."""
    names = os.listdir(folder)
    known = {name for name in names if name.endswith(".json") and _is_prediction(folder / name)}
    known |= {f"{name.removesuffix('.json')}.png" for name in known}
    return [name for name in names if name in known] if set(names) <= known else None


def _is_prediction(file: Path) -> bool:
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and set(content) == {"video", "classes", "windows"}


def _predict_videos(
    predictor: Predictor, videos: Sequence[Path], own: OwnFolder, num_top: int
) -> Iterator[str | Exception]:
    taken: dict[str, int] = {}
    for video in videos:
        try:
            if is_special(video):
                raise UnreadableVideo(str(video), SPECIAL)
            found = predictor.predict(video)
        except (UnreadableVideo, UserError) as error:
            yield error
            continue
        number = taken[video.name] = taken.get(video.name, 0) + 1
        name = video.name if number == 1 else f"{video.name}-{number}"
        written = [own.path / f"{name}.json"]
        if len(found.probabilities) > 1:
            times = found.begins_s, found.ends_s
            picture = draw_timeline(*times, found.probabilities, found.classes, video.name, num_top)
            write_bytes(own.file(f"{name}.png"), picture)
            written.append(own.path / f"{name}.png")
        write_json(own.file(f"{name}.json"), found.as_json(num_top))
        yield tell_prediction(found, written, num_top)


def tell_prediction(found: Prediction, written: Sequence[Path], num_top: int) -> str:
    """The classes of the whole video, then what was written."""
    count = len(found.probabilities)
    over = f"mean of {count:,} windows of {found.ends_s[0] - found.begins_s[0]:.3g} s; " if count > 1 else ""
    text = tell_probabilities(found.overall(num_top))
    return f"{found.video}: {text}\n  {over}wrote {', '.join(map(str, written))}"

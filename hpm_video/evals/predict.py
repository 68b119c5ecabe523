"""What a fine-tuned run says of any videos; of long ones window by window, read piece by piece.

A window is answered as a video is in a test. Dense sampling: a window is as long as a clip, num_frames * stride frames, and
a longer video has several. Segments: the whole video is one window, unless windows are asked for.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from hpm_video.config import DataConfig, FinetuneConfig
from hpm_video.data.decode import read_item
from hpm_video.data.decode_av import read_timeline
from hpm_video.data.limits import Limits
from hpm_video.data.manifest import open_manifest
from hpm_video.data.sampling import Protocol, protocol_of
from hpm_video.evals.exam import Pace
from hpm_video.evals.exam_charts import draw_timeline
from hpm_video.evals.views import ViewClassifier, choose_frames, cut_views, to_probabilities
from hpm_video.train.checkpoint import load_classifier, write_json
from hpm_video.train.engine import prepare_process
from hpm_video.types import Item, UnreadableVideo, UserError

log = logging.getLogger("hpm_video")
PIECE_BYTES = 128 << 20  # of decoded frames held at one time (one window is always held whole)
ASSUMED_FPS = 25.0  # of what has no time stamps: folders of frames


class Window(NamedTuple):
    """Frames start to stop - 1."""

    start: int
    stop: int


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
            if len(times) == count:
                return np.append(times, times[-1] + np.median(np.diff(times)))
        return np.arange(count + 1) / fps


class Predictor:
    """A fine-tuned run, asked about videos as it is in a test. Raises UserError."""

    def __init__(self, run: Path, window_s: float | None = None, every_s: float | None = None) -> None:
        """window_s: length of a window, every_s: from the start of one to the next; each is the other if not given."""
        self.config, model, self.classes = load_classifier(run, ["engine.kind=auto"])
        self.classifier = ViewClassifier(model, self.config, prepare_process(self.config))
        self.rule, self.num_clips, self.num_crops = find_protocol(run, self.config)
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
            begins_s=film.times_s[[w.start for w in done]],
            ends_s=film.times_s[[w.stop for w in done]],
            probabilities=np.stack(rows),
        )

    def windows(self, film: Film) -> list[Window]:
        rate = film.num_frames / film.times_s[-1]
        length = (self.config.data.num_frames - 1) * self.config.data.stride + 1 if self.rule == "dense" else None
        seconds = self.window_s or (self.every_s if length is None else None)
        if seconds is not None:
            length = max(1, round(seconds * rate))
        if length is None:
            length = film.num_frames
        every = length if self.every_s is None else max(1, round(self.every_s * rate))
        return slide(film.num_frames, length, every)

    def _answer(self, film: Film, windows: list[Window]) -> Iterator[Float[ndarray, " K"]]:
        """Probabilities of each window; ends early where the file breaks off."""
        data, average = self.config.data, self.config.test.average
        span = (data.num_frames - 1) * data.stride + 1
        longest = max(w.stop - w.start for w in windows)
        num_clips = 1 if self.rule == "dense" and longest <= span else self.num_clips
        wanted = num_clips * data.num_frames
        at_once = max(1, PIECE_BYTES // (wanted * film.frame_bytes))
        pace = Pace(film.item.name, "windows", len(windows))
        for first in range(0, len(windows), at_once):
            piece = windows[first : first + at_once]
            chosen = [w.start + choose_frames(self.rule, w.stop - w.start, num_clips, data) for w in piece]
            frames = film.read(np.concatenate(chosen))
            for number, part in enumerate(np.split(frames, len(piece)), first):
                if number and windows[number].start >= film.num_frames:
                    log.warning("%s breaks off after %d frames", film.item.name, film.num_frames)
                    return
                scores = self.classifier(cut_views(part, num_clips, self.num_crops, data))
                yield to_probabilities(scores, average).numpy()
            pace.show(first + len(piece))


def slide(num_frames: int, length: int, every: int) -> list[Window]:
    """Windows of `length` frames, one starting `every` frames after the other, a last one at the end of the video; of a
    video that is shorter, the whole."""
    if num_frames <= length:
        return [Window(0, num_frames)]
    starts = list(range(0, num_frames - length + 1, every))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [Window(start, start + length) for start in starts]


def find_protocol(run: Path, config: FinetuneConfig) -> Protocol:
    """How the run's own data set is sampled and tested: by its configuration, and where that leaves it to the data set, by
    the name of that set, from a test of the run or from data.root itself. Raises UserError where both are gone."""
    data, test = config.data, config.test
    given = (data.sampling if data.sampling != "auto" else None, test.num_clips, test.num_crops)
    if None in given:
        known = protocol_of(_find_set_name(run, config))
        given = (given[0] or known.sampling, given[1] or known.num_clips, given[2] or known.num_crops)
    return Protocol(*given)  # type: ignore[arg-type]


def _find_set_name(run: Path, config: FinetuneConfig) -> str:
    for file in sorted(run.glob("tests/*/results.json")):
        about = json.loads(file.read_text())["test"]
        if about["root"] == config.data.root:
            return about["set_name"]
    try:
        source = open_manifest(config.data, "train")
    except UserError as error:
        raise UserError(
            f"{run} was never tested, and its data set cannot be asked how it is sampled ({error}); expected data.sampling, "
            f"test.num_clips and test.num_crops in {run / 'config.yaml'}"
        ) from error
    return source.set_name if source is not None else ""


def predict_videos(
    predictor: Predictor, videos: list[Path], out: Path, num_top: int
) -> Iterator[tuple[Path, Prediction | Exception]]:
    """Each video with what was found, or why it could not be; writes OUT/NAME.json and, of several windows, NAME.png."""
    out.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    for video in videos:
        try:
            found = predictor.predict(video)
        except (UnreadableVideo, UserError) as error:
            yield video, error
            continue
        number = taken[video.name] = taken.get(video.name, 0) + 1
        name = video.name if number == 1 else f"{video.name}-{number}"
        if len(found.probabilities) > 1:
            draft = out / f".{name}.draft"
            times = found.begins_s, found.ends_s
            draft.write_bytes(draw_timeline(*times, found.probabilities, found.classes, video.name, num_top))
            os.replace(draft, out / f"{name}.png")
        write_json(out / f"{name}.json", found.as_json(num_top))
        yield video, found

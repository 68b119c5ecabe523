"""Classify any videos with a fine-tuned run; long videos are read and classified window by window.

Each window is classified as a video is in a test. Dense sampling: a window is as long as a clip (num_frames * stride
frames), and a longer video has several windows. Segments: the whole video is one window. If a length or a distance is
given in seconds, windows are cut by the time stamps of the frames.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from hpm_video.catalog.listing import SUFFIXES, list_folder, list_frames
from hpm_video.config import FinetuneConfig
from hpm_video.config.data_sets import SamplingProtocol, read_protocol
from hpm_video.data.sampling import choose_protocol
from hpm_video.data.source import open_source
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.evals.finetuned.charts import draw_timeline
from hpm_video.evals.finetuned.views import ViewClassifier, choose_frames, cut_views, to_probabilities
from hpm_video.evals.finetuned.windows import LazyVideo, Window, slide, slide_seconds
from hpm_video.evals.metrics import best_classes
from hpm_video.evals.summary import format_probabilities
from hpm_video.files import write_bytes, write_json
from hpm_video.own_folder import own_folder
from hpm_video.preprocess.jobs import SPECIAL, is_special
from hpm_video.progress import Progress
from hpm_video.reading import parse_json, read_json
from hpm_video.terminal import one_line
from hpm_video.train.engines.start import prepare_process
from hpm_video.weights.load import load_classifier

log = logging.getLogger("hpm_video")
PIECE_BYTES = 128 << 20  # most decoded frames in memory (at least one window)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Probabilities of each window of a video, and its begin and end."""

    video: str
    classes: list[str]
    begins_s: Float[ndarray, " W"]
    ends_s: Float[ndarray, " W"]
    probabilities: Float[ndarray, "W K"]

    def overall(self, num: int) -> list[tuple[str, float]]:
        """Return the most probable classes of the whole video, by the mean over its windows."""
        return self.top(self.probabilities.mean(0), num)

    def top(self, probabilities: Float[ndarray, " K"], num: int) -> list[tuple[str, float]]:
        """Return the most probable classes of a window with their probabilities."""
        return [(self.classes[k], float(probabilities[k])) for k in best_classes(probabilities, num)]

    def as_json(self, num: int) -> dict[str, Any]:
        """Return the content of the JSON file, with the `num` most probable classes."""
        windows = zip(self.begins_s.tolist(), self.ends_s.tolist(), self.probabilities, strict=True)
        return {
            "video": self.video,
            "classes": dict(self.overall(num)),
            "windows": [{"begin_s": b, "end_s": e, "classes": dict(self.top(p, num))} for b, e, p in windows],
        }


class Predictor:
    """Classify videos with a fine-tuned run, as its test does. Raises UserError."""

    def __init__(self, run: Path, window_s: float | None = None, every_s: float | None = None) -> None:
        """Load the run. window_s: length of a window; every_s: time between the starts of two windows; in seconds."""
        self.config, model, self.classes = load_classifier(run, ["engine.kind=auto"])
        self.classifier = ViewClassifier(model, self.config, prepare_process(self.config))
        self.sampling, self.num_clips, self.num_crops = find_protocol(run, self.config)
        self.window_s, self.every_s = window_s, every_s

    def predict(self, path: Path) -> Prediction:
        """Classify a video. Raises UnreadableVideo."""
        video = LazyVideo(path, self.config.data)
        windows = self.windows(video)
        rows = list(self._answer(video, windows))
        done = windows[: len(rows)]
        return Prediction(
            video=str(path),
            classes=self.classes,
            begins_s=np.array([window.begin_s for window in done]),
            ends_s=np.array([window.end_s for window in done]),
            probabilities=np.stack(rows),
        )

    def windows(self, video: LazyVideo) -> list[Window]:
        """Return the windows of a video."""
        is_dense = self.sampling == "dense"
        if self.window_s is None and (self.every_s is None or is_dense):
            return slide(video.times_s, self.clip_length if is_dense else video.num_frames, self.every_s)
        seconds = self.window_s or self.every_s
        assert seconds is not None
        return slide_seconds(video.times_s, seconds, self.every_s or seconds)

    @property
    def clip_length(self) -> int:
        """Return the frames from the first to the last of a clip with dense sampling."""
        return (self.config.data.num_frames - 1) * self.config.data.stride + 1

    def _answer(self, video: LazyVideo, windows: list[Window]) -> Iterator[Float[ndarray, " K"]]:
        """Yield the probabilities of each window; end early if the file is cut off."""
        data, average = self.config.data, self.config.test.average
        longest = max(w.stop - w.start for w in windows)
        num_clips = 1 if self.sampling == "dense" and longest <= self.clip_length else self.num_clips
        num_frames = num_clips * data.num_frames
        at_once = max(1, PIECE_BYTES // (num_frames * video.frame_bytes))
        progress = Progress(video.item.name, "windows", len(windows), bar=False)
        for first in range(0, len(windows), at_once):
            piece = windows[first : first + at_once]
            chosen = [w.start + choose_frames(self.sampling, w.stop - w.start, num_clips, data) for w in piece]
            frames = video.read(np.concatenate(chosen))
            for number, part in enumerate(np.split(frames, len(piece)), first):
                if number and windows[number].start >= video.num_frames:
                    log.warning("%s is cut off after %d frames", video.item.name, video.num_frames)
                    return
                scores = self.classifier(cut_views(part, num_clips, self.num_crops, data))
                yield to_probabilities(scores, average).numpy()
            progress.show(first + len(piece))


def find_protocol(run: Path, config: FinetuneConfig) -> SamplingProtocol:
    """Return the sampling and test protocol of the run's data set: from its configuration, from a test of the run, or from
    data.root. Raises UserError if none of them has it."""
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
            log.warning("%s: no protocol of the data set in it: %s", file, error)
    try:
        source = open_source(config.data, "train")
    except UserError as error:
        raise UserError(
            f"{run} was never tested, and its data set cannot be opened to find its sampling ({error}); expected data.sampling, "
            f"test.num_clips and test.num_crops in {run / 'config.yaml'}"
        ) from error
    return source.protocol if source is not None else None


def list_samples(given: Sequence[Path]) -> list[Path]:
    """Return the given files and folders of frames. Other folders give the videos in them and in their subfolders, or their
    folders of frames. Each sample is listed once. Raises UserError for a folder without videos and frames."""
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
    """Yield a text for each video, or the error if it is unreadable. Write OUT/NAME.json and, for several windows,
    OUT/NAME.png."""
    with own_folder(out, "hpm-video predict", find_older_predictions) as own:
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
            yield describe_prediction(found, written, num_top)


def find_older_predictions(folder: Path) -> list[str] | None:
    """Return the files of predictions written before marks existed; None if the folder holds anything else."""
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


def describe_prediction(found: Prediction, written: Sequence[Path], num_top: int) -> str:
    """Return the classes of the whole video and the names of the written files."""
    count = len(found.probabilities)
    over = f"mean of {count:,} windows of {found.ends_s[0] - found.begins_s[0]:.3g} s; " if count > 1 else ""
    text = format_probabilities(found.overall(num_top))
    return f"{one_line(found.video)}: {text}\n  {over}wrote {one_line(', '.join(map(str, written)))}"

"""Load a trained model from a folder, a file or the hub: features of any videos, and classes if it was fine-tuned."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from hpm_video.api.keys import make_overrides
from hpm_video.config import DataConfig, RunConfig
from hpm_video.data.sampling import sample_frames
from hpm_video.data.transforms import make_transform
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.evals.frozen.cache import check_pooling, encode_clips
from hpm_video.evals.frozen.clips import CLIPS_PER_BATCH, ClipBatch
from hpm_video.evals.frozen.features import check_grid, find_device
from hpm_video.files import expand_home
from hpm_video.models.encoder import Encoder
from hpm_video.runs.kind import CONFIG, check_run, find_kind
from hpm_video.runs.settings import check_overrides, load_run_config
from hpm_video.weights.hub import fetch_model, is_on_hub
from hpm_video.weights.load import load_classifier, load_encoder, load_foreign_encoder

Input = Any  # str | Path | uint8 [T, H, W, 3] as an array or tensor | uint8 tensor [3, T, H, W]; beartype cannot distinguish them


class Model:
    """A frozen, trained encoder that reads clips as its run did. Made by `hv.load`.

    encoder: the `hv.Encoder`, in eval mode. config: its configuration, a stand-in for foreign weights. classes: names, if the run
    was fine-tuned. grid: (t, h, w), the tokens along time, height and width. width: D, the width of a token.

    >>> model = hv.load("runs/mine")
    >>> model.grid, model.width
    ((2, 4, 4), 32)
    """

    def __init__(
        self, encoder: Encoder, config: RunConfig, run: Path | None = None, classes: Sequence[str] = ()
    ) -> None:
        """run: folder of a fine-tuning run, for `predict`; None = no classifier."""
        self.encoder, self.config, self.run, self.classes = encoder.eval(), config, run, list(classes)
        self.grid, self.width = encoder.grid, encoder.width
        self._predictor: Any = None

    @property
    def device(self) -> torch.device:
        """Return the device of the encoder."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device | str) -> "Model":
        """Move the encoder to a device, in place, and return the model."""
        self.encoder.to(device)
        return self

    def features(
        self, inputs: Input, pool: str = "mean", *, batch_size: int = CLIPS_PER_BATCH, workers: int = 0
    ) -> Tensor:
        """Return the features that `hpm-video features` writes: on the CPU, a row for each video, in the order of the inputs.

        inputs: a path, an array, or a list of both. A path is a video, or a folder of videos (in the order of `list_videos`).
        An array or tensor is uint8: frames [T, H, W, 3] of any number and size, or a batch of those [n, T, H, W, 3]. They are
        sampled, cropped at the centre and resized like a file. A tensor [3, T, H, W] or [n, 3, T, H, W] is a clip of the model's
        own size, used as it is.

        pool: mean [n, D]; space [n, t, D] or motion [n, t, D]; tokens [n, t, h, w, D], in fp16; cls [n, D]. All others are fp32.
        batch_size: clips in a forward pass. workers: processes that read videos; 0 = this one.

        Raises UserError for an unknown pooling, clips of another size, or a video that cannot be read.

        >>> model = hv.load("runs/mine")
        >>> model.features(["videos/a.mkv", "videos/b.mkv"]).shape
        torch.Size([2, 32])
        >>> model.features(np.zeros((30, 48, 64, 3), np.uint8), pool="tokens").shape
        torch.Size([1, 2, 4, 4, 32])
        """
        check_pooling(self.encoder, pool)
        names: list[str] = []
        clips: list[Tensor] = []
        order: list[tuple[bool, int]] = []  # (is a clip in memory, its number)
        for one in _as_list(inputs):
            if isinstance(one, str | Path):
                found = self.list_videos(one)
                order += [(False, len(names) + number) for number in range(len(found))]
                names += found
            else:
                given = list(self._to_clips(one))
                order += [(True, len(clips) + number) for number in range(len(given))]
                clips += given
        if not order:
            raise UserError("inputs: empty; expected videos, folders of videos, or frames")
        of_files = self._encode(self._read(names, batch_size, workers), pool)
        of_clips = self._encode(_batch(clips, batch_size), pool)
        return torch.stack([(of_clips if in_memory else of_files)[number] for in_memory, number in order])

    def list_videos(self, inputs: str | Path | Iterable[str | Path]) -> list[str]:
        """Return the videos of paths: a file itself, and all videos in a folder and below. Raises UserError.

        >>> hv.load("runs/mine").list_videos("videos")
        ['videos/a.mkv', 'videos/b.mkv']
        """
        from hpm_video.evals.frozen.feature_file import list_videos

        paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
        return [name for path in paths for name in list_videos([Path(expand_home(str(path)))])]

    def predict(
        self,
        videos: str | Path | Iterable[str | Path],
        *,
        window_s: float | None = None,
        every_s: float | None = None,
    ) -> list[Any]:
        """Classify videos with a fine-tuned model; return a `Prediction` for each, in order. Writes nothing.

        window_s: seconds of a window; every_s: seconds from the start of one to the next, as in `hpm-video predict`. It has
        `classes`, `probabilities` [windows, K], `begins_s`, `ends_s` and `overall(n)`, the n most probable classes.

        Raises UserError if the model is not from a fine-tuning run, or a video cannot be read.

        >>> (found,) = hv.load("runs/tuned").predict("videos/a.mkv")
        >>> sorted(found.classes), found.probabilities.shape
        (['clap', 'jump', 'wave'], (1, 3))
        """
        from hpm_video.evals.finetuned.predict import Predictor, list_samples

        if self.run is None:
            raise UserError(f"{self.config.data.root}: has no classifier; expected the folder of a fine-tuning run")
        windows = window_s, every_s
        if self._predictor is None or (self._predictor.window_s, self._predictor.every_s) != windows:
            self._predictor = Predictor(self.run, *windows)
        paths = [videos] if isinstance(videos, str | Path) else list(videos)
        try:
            return [self._predictor.predict(path) for path in list_samples([Path(expand_home(str(p))) for p in paths])]
        except UnreadableVideo as error:
            raise UserError(str(error)) from error

    def _encode(self, batches: Iterable[ClipBatch], pool: str) -> list[Tensor]:
        """Return the features of each clip, as the command computes them."""
        return [row for part in encode_clips(self.encoder, batches, self.config.data, pool) for row in part.values]

    def _to_clips(self, given: Any) -> Iterator[UInt8[Tensor, "C T H W"]]:
        """Yield the clips of an array or tensor. Raises UserError."""
        values = torch.as_tensor(given)
        if values.dtype != torch.uint8:
            raise UserError(f"inputs: values of {values.dtype}; expected uint8, 0 to 255, as videos are decoded")
        frames_last = values.ndim in (4, 5) and values.shape[-1] == 3
        if not frames_last and not (values.ndim in (4, 5) and values.shape[-4] == 3):
            raise UserError(
                f"inputs: {list(values.shape)}; expected frames [T, H, W, 3] or [n, T, H, W, 3], or clips [3, T, H, W] or "
                "[n, 3, T, H, W]"
            )
        for one in values.unsqueeze(0) if values.ndim == 4 else values:
            yield self._cut(one.cpu().numpy()) if frames_last else self._check_clip(one.cpu())

    def _cut(self, frames: UInt8[ndarray, "n H W 3"]) -> UInt8[Tensor, "C T h w"]:
        """Sample and crop frames like those of a file."""
        config = self.config.data
        if 0 in frames.shape:
            raise UserError(f"inputs: {list(frames.shape)}; expected at least one frame of one pixel")
        chosen = frames[sample_frames(config.sampling, len(frames), config, None)]
        return make_transform(config, training=False)(chosen, np.random.default_rng(0))

    def _check_clip(self, clip: UInt8[Tensor, "C T H W"]) -> UInt8[Tensor, "C T H W"]:
        self.encoder.check_clip(clip[None].float(), whole=True)
        return clip

    def _read(self, names: list[str], batch_size: int, workers: int) -> Iterator[ClipBatch]:
        """Yield the clips of videos, read as by `hpm-video features`. Raises UserError if one of them cannot be read."""
        if not names:
            return
        from hpm_video.evals.frozen.feature_file import PlannedClips, plan_clips, read_clips

        config = dataclasses.replace(self.config.data, num_workers=workers)
        plan = [
            clip for n, name in enumerate(names) for clip in plan_clips(n, _read_times(name, config), config, False)
        ]
        for batch in read_clips(PlannedClips(plan, names, config), range(len(plan)), batch_size):
            for failure in batch.unreadable.values():
                raise UserError(f"{failure.path}: {failure.reason}")
            yield batch


def _read_times(name: str, config: DataConfig) -> dict[str, Any]:
    """Return the times of a video's frames. Raises UserError if it cannot be read."""
    from hpm_video.data.readers.limits import Limits
    from hpm_video.preprocess.jobs import SPECIAL, is_special
    from hpm_video.preprocess.times import read_times

    if is_special(Path(name)):
        raise UserError(f"{name}: {SPECIAL}")
    try:
        return read_times(name, Limits.of(config))
    except UnreadableVideo as error:
        raise UserError(str(error)) from error


def _as_list(inputs: Any) -> list[Any]:
    """Return the inputs as a list of paths, arrays and tensors. Raises UserError for anything else."""
    found = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    for one in found:
        if not isinstance(one, str | Path | ndarray | Tensor):
            raise UserError(f"inputs: {type(one).__name__}; expected paths, arrays or tensors, or a list of them")
    return found


def _batch(clips: list[Tensor], batch_size: int) -> Iterator[ClipBatch]:
    for start in range(0, len(clips), batch_size):
        part = clips[start : start + batch_size]
        stored = torch.stack([clip.permute(1, 2, 3, 0) for clip in part]).permute(
            0, 4, 1, 2, 3
        )  # as `collate` stores them
        yield ClipBatch(np.arange(start, start + len(part)), stored, np.full(len(part), -1), {})


def load(
    source: str | Path, *, device: str | torch.device | None = None, trust_pickle: bool = False, **keys: Any
) -> Model:
    """Load a trained model: the folder of a run, an exported file or folder, another project's weights, or hf://ORG/NAME.

    Other projects are VideoMAE, MAE, timm and transformers, as init.weights takes them. device: None = the first GPU, else the
    CPU. trust_pickle: also load files of pickled objects, which can run any code. keys: data.* keys for reading clips, such as
    `data={"fps": 8}`. A run keeps the size of its clips; other weights also take another size, and interpolate positions.

    Raises UserError if there is no model, with the messages of the commands.

    >>> hv.load("runs/mine", data={"stride": 1}).features("videos").shape
    torch.Size([2, 32])
    """
    overrides = make_overrides(keys)
    check_overrides(overrides, "data.*")
    if is_on_hub(str(source)):
        model = _load_file(fetch_model(str(source)), overrides, trust_pickle)
    else:
        path = Path(expand_home(str(source)))
        is_weights = path.is_file() or (path.is_dir() and not (path / CONFIG).is_file() and not _holds_runs(path))
        model = _load_file(path, overrides, trust_pickle) if is_weights else _load_run(path, overrides)
    return model.to(find_device() if device is None else device)


def _holds_runs(folder: Path) -> bool:
    """Return True if a folder contains run folders, which the message about a missing run then names."""
    return any(folder.glob(f"*/{CONFIG}"))


def _load_file(path: Path, overrides: list[str], trust_pickle: bool) -> Model:
    config, encoder = load_foreign_encoder(path, overrides, trust_pickle)
    return Model(encoder, config)


def _load_run(run: Path, overrides: list[str]) -> Model:
    check_run(run)
    if find_kind(run) == "finetune":
        config, classifier, classes = load_classifier(run, overrides)
        check_grid(config, classifier.encoder)
        return Model(classifier.encoder, config, run, classes)
    encoder, pretraining = load_encoder(run)[1], load_run_config(run, overrides)
    check_grid(pretraining, encoder)
    return Model(encoder, pretraining)

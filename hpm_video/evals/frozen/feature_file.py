"""Write the features of any videos to one file for other tools: `hpm-video features`."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hpm_video.catalog.listing import list_folder
from hpm_video.catalog.rows import Row
from hpm_video.config import DataConfig, PretrainConfig
from hpm_video.cores import num_free_cores
from hpm_video.data.dataset import Sample
from hpm_video.data.manifest import Manifest
from hpm_video.data.readers.limits import Limits
from hpm_video.data.readers.rates import count_at
from hpm_video.data.readers.read import read_item
from hpm_video.data.sampling import sample_dense, sample_frames
from hpm_video.errors import UnreadableVideo, UserError
from hpm_video.evals.frozen.cache import (
    CLIP_KEYS,
    Parts,
    check_pooling,
    encode_clips,
    hash_weights,
    key_of,
    rows_that_fit,
)
from hpm_video.evals.frozen.clips import CLIPS_PER_BATCH, ListedClips, read_clips
from hpm_video.evals.frozen.features import POOLINGS, find_device
from hpm_video.evals.frozen.layout import LAYOUT
from hpm_video.files import replacing
from hpm_video.models.encoder import Encoder
from hpm_video.own_folder import OwnFolder, all_names, own_folder
from hpm_video.preprocess.jobs import Record, run_jobs
from hpm_video.preprocess.times import read_times
from hpm_video.reading import parse_json
from hpm_video.types import Failure
from hpm_video.weights.load import load_encoder

log = logging.getLogger("hpm_video")
FORMAT, TIMES = "hpm-video features 1", "times.jsonl"


class Planned(NamedTuple):
    """A clip to read: the number of its video, its frames and their times."""

    video: int
    frames: Int[ndarray, " T"]
    times_s: Float[ndarray, " T"]


class PlannedClips(ListedClips):
    """Planned clips: row k is clip k of the plan."""

    def __init__(self, plan: Sequence[Planned], names: Sequence[str], config: DataConfig) -> None:
        rows = [Row(names[clip.video]) for clip in plan]
        super().__init__(Manifest.of(Path(), rows, [], "the given videos"), config)
        self.plan = plan

    def read_clip(self, row: int) -> Sample:
        item = self.source.item(row)
        if item.name in self.bad:
            raise UnreadableVideo(item.name, self.bad[item.name])
        config = self.config
        with self.decoding(row):
            frames = read_item(item, lambda n: self._choose(row, n), config.reader, config.fps, self.limits)
        return Sample(self.transform(frames, np.random.default_rng(0)), -1, row, ())

    def _choose(self, row: int, num_available: int) -> Int[ndarray, " T"]:
        """Return the planned frames. A file can have fewer frames than packets."""
        return np.minimum(self.plan[row].frames, num_available - 1)


def write_features(  # noqa: PLR0913
    videos: Sequence[Path],
    run: Path,
    out: Path,
    pooling: str = "mean",
    windows: bool = False,
    stride_s: float | None = None,
) -> str:
    """Compute features of videos, write them to `out` (.npz or .safetensors, see LAYOUT), and return a description.
    Raises UserError.

    OUT.parts holds the features until all are computed; an interrupted call resumes from there.
    """
    check_out(out)
    if stride_s is not None and not windows:
        raise UserError("--stride-s: only windows have a stride. Try: add --windows")
    names = list_videos(videos)
    config, encoder = load_encoder(run)
    encoder = encoder.to(find_device()).eval()
    check_pooling(encoder, pooling)
    with own_folder(out.with_name(out.name + ".parts"), "hpm-video features", find_older_work) as own:
        description = _write_features(own, names, out, (config, encoder), pooling, windows, stride_s)
        own.discard()
    return description


def check_out(out: Path) -> None:
    """Raise UserError if `out` has another suffix, or is a file of something else."""
    if out.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{out}: expected a file that ends with .npz or .safetensors")
    if out.is_symlink() or (os.path.lexists(out) and read_metadata(out).get("format") != FORMAT):
        kind = "a folder" if out.is_dir() else "a file that hpm-video features did not write"
        kind = "a link" if out.is_symlink() else kind
        raise UserError(f"{out} is {kind}; expected features of an earlier run, or nothing there. Try: another --out")


def find_older_work(folder: Path) -> list[str] | None:
    """Return the files of an interrupted call written before marks existed; None if the folder is anything else."""
    key = "[0-9a-f]" * 24
    return all_names(folder, TIMES, f"{key}/part-*.safetensors", f"{key}/.part-*.safetensors.*")


def _write_features(  # noqa: PLR0913
    own: OwnFolder,
    names: list[str],
    out: Path,
    model: tuple[PretrainConfig, Encoder],
    pooling: str,
    windows: bool,
    stride_s: float | None,
) -> str:
    config, encoder = model
    files = {name: Path(name) for name in names}
    own.file(TIMES)
    records = run_jobs(
        files,
        partial(read_times, limits=Limits.of(config.data)),
        own.path / TIMES,
        "time stamps",
        {},
        num_free_cores(),
        config.data.time_limit_s,
    )
    plan = [
        clip
        for number, record in enumerate(records)
        for clip in plan_clips(number, record, config.data, windows, stride_s)
    ]
    bad = [Failure(record["path"], record["reason"]) for record in records if "reason" in record]
    for failure in bad:
        log.warning("unreadable, left out: %s: %s", failure.path, failure.reason)
    metadata = describe(encoder, config, records, plan, pooling) | {"windows": windows, "stride_s": stride_s}
    if read_metadata(out).get("key") == metadata["key"]:
        return f"{out} already holds these features of these videos\n"
    if not plan:
        raise UserError(f"none of the {len(names)} videos could be read; the first: {bad[0].path}: {bad[0].reason}")
    parts = Parts(own.path / metadata["key"], len(plan), rows_that_fit(encoder, pooling))
    own.reserve(f"{metadata['key']}/{name}" for name in parts.names)
    own.file(f"{metadata['key']}/{parts.names[0]}")
    missing = parts.missing()
    batches = read_clips(PlannedClips(plan, names, config.data), missing, CLIPS_PER_BATCH)
    parts.fill(encode_clips(encoder, batches, config.data, pooling), "features", max_bad_share=1.0)
    return _merge(parts, plan, encoder, metadata | {"videos": names, "unreadable": bad}, out)


def list_videos(given: Sequence[Path]) -> list[str]:
    """Return the given files, and the videos in given folders and their subfolders, each once. Raises UserError."""
    found: list[str] = []
    for path in given:
        found += [str(path / name) for name in list_folder(path)] if path.is_dir() else [str(path)]
    return list(dict.fromkeys(found))


def plan_clips(
    video: int, record: Record, config: DataConfig, windows: bool, stride_s: float | None = None
) -> list[Planned]:
    """Return the clips of a video; none if it cannot be read."""
    if "reason" in record:
        return []
    times = np.array(record["times_s"]) if "times_s" in record else np.arange(record["num_frames"]) * record["step_s"]
    if config.fps is not None:
        count = min(count_at(times, config.fps), config.max_frames)  # the reader reports longer videos
        times = np.arange(int(count)) / config.fps
    if not windows:
        chosen = [sample_frames(config.sampling, len(times), config, None)]
    else:
        chosen = choose_windows(times, config.num_frames, config.stride, stride_s)
    return [Planned(video, frames, times[frames]) for frames in chosen]


def choose_windows(
    times_s: Float[ndarray, " frames"], num_frames: int, stride: int, stride_s: float | None
) -> list[Int[ndarray, " T"]]:
    """Return the frames of each window that fits into the video; at least one window."""
    spare = len(times_s) - ((num_frames - 1) * stride + 1)
    if spare < 0:
        return [sample_dense(len(times_s), num_frames, stride, None)]
    if stride_s is None:
        starts = np.arange(0, spare + 1, num_frames * stride)
    else:
        wanted = np.arange(0, times_s[spare] + 1e-6, stride_s)
        starts = np.unique(np.searchsorted(times_s, wanted - 1e-6))  # at a low frame rate, several times share a frame
    return [start + np.arange(num_frames) * stride for start in starts]


def describe(
    encoder: Encoder, config: PretrainConfig, records: list[Record], plan: list[Planned], pooling: str
) -> dict[str, Any]:
    """Return all inputs of the features, with their hash."""
    found = hashlib.sha256(json.dumps(records, sort_keys=True).encode())
    for clip in plan:
        found.update(clip.frames.tobytes())
    settings = {
        "format": FORMAT,
        "layout": LAYOUT,
        "pooling": pooling,
        "shape": POOLINGS[pooling],
        "grid": encoder.grid,
        "weights": hash_weights(encoder, config),
        "clip": {name: getattr(config.data, name) for name in CLIP_KEYS},
    }
    return settings | {"key": key_of(settings | {"videos": found.hexdigest()})}


def _merge(parts: Parts, plan: list[Planned], encoder: Encoder, metadata: dict[str, Any], out: Path) -> str:
    found = list(parts.read())
    rows = np.concatenate([part.rows for part in found])
    failures = {failure.path: failure for part in found for failure in part.unreadable.values()}
    bad = [*metadata["unreadable"], *failures.values()]
    metadata["unreadable"] = [failure._asdict() for failure in bad]
    if not len(rows):
        raise UserError(f"none of the videos could be read; the first: {bad[0].path}: {bad[0].reason}")
    steps = 1 if metadata["pooling"] in ("mean", "cls") else encoder.grid[0]
    tensors = {
        "features": torch.cat([part.values for part in found if len(part.rows)]),
        "times_s": torch.from_numpy(np.stack([plan[row].times_s.reshape(steps, -1).mean(1) for row in rows])),
        "video": torch.tensor([plan[row].video for row in rows]),
    }
    write_file(out, tensors, metadata)
    shape = list(tensors["features"].shape)
    return (
        f"wrote {out}: features {shape}, of {len(set(tensors['video'].tolist())):,} videos; {len(bad):,} unreadable\n"
    )


def write_file(out: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and metadata as .npz or .safetensors."""
    with replacing(out) as draft:
        if out.suffix == ".npz":
            with draft.open("wb") as stream:
                arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
                np.savez(stream, allow_pickle=False, metadata=np.array(json.dumps(metadata)), **arrays)
        else:
            save_file(tensors, draft, {"hpm_video": json.dumps(metadata)})


def read_metadata(file: Path) -> dict[str, Any]:
    """Return the metadata of a file that `write_file` wrote; {} for any other file."""
    if not file.is_file():
        return {}
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                found = parse_json(str(arrays["metadata"]))
        else:
            with safe_open(file, "pt") as tensors:
                found = parse_json((tensors.metadata() or {})["hpm_video"])
    except Exception:  # other files raise many types of error: of zipfile, zlib, numpy, safetensors
        return {}
    return found if isinstance(found, dict) else {}

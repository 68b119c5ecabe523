"""Cache features on disk: each is computed once, is found by its inputs, and resumes after an interruption.

```
RUN/features/KEY/key.json                    the inputs of the features; KEY is their hash
                 part-00000000.safetensors   rows, values and labels of the next videos; in the metadata unreadable videos
```
Different weights, clip settings or lists of videos (names, labels, sizes, modification times) give a different KEY, so
stale features are never read. The folder can be deleted at any time.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hpm_video.config import DataConfig, PretrainConfig
from hpm_video.data.bad_samples import BadSamples
from hpm_video.data.source import Source
from hpm_video.errors import UserError
from hpm_video.evals.frozen.clips import CLIPS_PER_BATCH, ClipBatch, ListedClips, read_clips
from hpm_video.evals.frozen.features import FROM_SPACE, Features, encode, from_space, pool, precision_of
from hpm_video.files import replacing, write_json
from hpm_video.models.encoder import TokenEncoder, resolve_size
from hpm_video.own_folder import all_names, own_folder
from hpm_video.progress import Progress
from hpm_video.reading import parse_json
from hpm_video.types import Failure

log = logging.getLogger("hpm_video")
FORMAT = 1  # increase it if stored values or the cut of clips change: that gives another KEY
KEY_FILE = "key.json"
ROWS_PER_PART, BYTES_PER_PART = 1000, 256 << 20  # whichever is less
CLIP_KEYS = ("num_frames", "frame_size_px", "sampling", "stride", "fps", "mean", "std")


class Encoded(NamedTuple):
    """Features of the readable rows among some rows, on the CPU, and the failures of the other rows."""

    rows: Int[ndarray, " B"]
    values: Float[Tensor, "B ..."]
    labels: Int[ndarray, " B"]
    unreadable: dict[int, Failure]


class Parts:
    """Rows 0 to num_rows - 1 in files of `rows_per_part` rows, each whole or absent. The caller of `fill` must own `folder`."""

    def __init__(self, folder: Path, num_rows: int, rows_per_part: int) -> None:
        self.folder, self.num_rows, self.rows_per_part = folder, num_rows, rows_per_part

    def __len__(self) -> int:
        return -(-self.num_rows // self.rows_per_part)

    def file(self, number: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"part-{number * self.rows_per_part:08d}.safetensors"

    @property
    def names(self) -> list[str]:
        """Return the names of all files in `folder`."""
        return [self.file(number).name for number in range(len(self))]

    def missing(self) -> list[int]:
        """Return the rows of parts that are absent or incomplete."""
        return [
            row
            for number in range(len(self))
            if not is_whole(self.file(number), self._rows_of(number))
            for row in self._rows_of(number)
        ]

    def _rows_of(self, number: int) -> range:
        return range(number * self.rows_per_part, min((number + 1) * self.rows_per_part, self.num_rows))

    def fill(self, work: Iterable[Encoded], title: str, max_bad_share: float) -> None:
        """Write each part as soon as its last row is computed. work: yields the missing rows in ascending order."""
        num_done = self.num_rows - len(self.missing())
        bad = BadSamples(max_bad_share, "left out")
        progress = Progress(title, "videos", self.num_rows, num_done, bar=False)
        pieces: dict[int, list[Encoded]] = {}
        for batch in work:
            bad.add(batch.unreadable.values(), len(batch.rows))
            bad.check()
            num_done += len(batch.rows) + len(batch.unreadable)
            progress.show(num_done, bad.num_bad)
            rows = [*batch.rows.tolist(), *batch.unreadable]
            for number in sorted({row // self.rows_per_part for row in rows}):
                pieces.setdefault(number, []).append(_choose(batch, self._rows_of(number)))
            for number in [n for n in pieces if self._rows_of(n)[-1] <= max(rows)]:
                self._write(number, pieces.pop(number))

    def _write(self, number: int, pieces: Sequence[Encoded]) -> None:
        kept = [piece.values for piece in pieces if len(piece.rows)]
        tensors = {
            "rows": torch.from_numpy(np.concatenate([piece.rows for piece in pieces])),
            "labels": torch.from_numpy(np.concatenate([piece.labels for piece in pieces])),
            "values": torch.cat(kept).contiguous() if kept else torch.zeros(0),
        }
        unreadable = {row: failure for piece in pieces for row, failure in piece.unreadable.items()}
        with replacing(self.file(number)) as draft:
            save_file(tensors, draft, {"unreadable": json.dumps(unreadable)})

    def read(self) -> Iterator[Encoded]:
        """Yield the parts in order. Values are mapped from the file and read only when they are used."""
        for number in range(len(self)):
            with safe_open(self.file(number), "pt") as file:
                yield Encoded(
                    file.get_tensor("rows").numpy(),
                    file.get_tensor("values"),
                    file.get_tensor("labels").numpy(),
                    _read_unreadable(file),
                )


def _read_unreadable(part: Any) -> dict[int, Failure]:
    return {int(row): Failure(*failure) for row, failure in parse_json(part.metadata()["unreadable"]).items()}


def is_whole(file: Path, rows: range) -> bool:
    """Return True if a part has all of its rows. Damaged parts are computed again."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as part:
            found = part.get_tensor("rows").tolist()
            lengths = {part.get_slice(name).get_shape()[0] for name in ("values", "labels")}
            unreadable = _read_unreadable(part)
        return lengths == {len(found)} and sorted([*found, *unreadable]) == list(rows)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return False


def _choose(encoded: Encoded, rows: range) -> Encoded:
    inside = np.flatnonzero((encoded.rows >= rows.start) & (encoded.rows < rows.stop))
    unreadable = {row: failure for row, failure in encoded.unreadable.items() if row in rows}
    values = encoded.values[inside] if len(encoded.rows) else encoded.values
    return Encoded(encoded.rows[inside], values, encoded.labels[inside], unreadable)


def encode_clips(
    encoder: TokenEncoder, batches: Iterable[ClipBatch], config: DataConfig, pooling: str
) -> Iterator[Encoded]:
    """Yield the features of batches: tokens in fp16 (a GPU computes them in bf16, which is coarser), others in fp32."""
    for batch in batches:
        values = torch.zeros(0)
        if len(batch.rows):
            values = pool(encode(encoder, batch.clip, config), encoder.grid, pooling).cpu()
        yield Encoded(batch.rows, values.half() if pooling == "tokens" else values, batch.label, batch.unreadable)


def cached_features(
    folder: Path, encoder: TokenEncoder, source: Source, config: PretrainConfig, pooling: str, rows_per_part: int = 0
) -> Features:
    """Return the features of a whole source, from `folder` if they are there. The encoder must be on its device, in eval
    mode."""
    stored = "space" if pooling in FROM_SPACE else pooling
    parts, key = cached_parts(folder, encoder, source, config, stored, rows_per_part)
    found = list(parts.read())
    rows = [int(row) for part in found for row in part.rows]
    if not rows:
        raise UserError(f"none of the {len(source)} videos of {source.source} could be read")
    values = torch.cat([part.values for part in found if len(part.rows)])
    values = from_space(values, pooling) if stored == "space" else values
    return Features(
        values=values.flatten(1).numpy(),
        labels=np.concatenate([part.labels for part in found]),
        paths=[source.name(row) for row in rows],
        classes=source.classes,
        failures=[failure for part in found for failure in part.unreadable.values()],
        groups=source.groups(rows),
        key=key,
    )


def cached_parts(
    folder: Path, encoder: TokenEncoder, source: Source, config: PretrainConfig, pooling: str, rows_per_part: int = 0
) -> tuple[Parts, str]:
    """Compute the missing parts, and return all parts with their KEY."""
    check_pooling(encoder, pooling)
    settings = describe(encoder, source, config, pooling)
    key = key_of(settings)
    parts = Parts(folder / key, len(source), rows_per_part or rows_that_fit(encoder, pooling))
    if not parts.missing():
        return parts, key
    with own_folder(parts.folder, "hpm-video features", find_older_parts) as own:
        own.reserve([KEY_FILE, *parts.names])
        write_json(parts.folder / KEY_FILE, {"source": source.source, **settings})
        batches = read_clips(ListedClips(source, config.data), parts.missing(), CLIPS_PER_BATCH)
        title = f"features of {source.source}"
        parts.fill(encode_clips(encoder, batches, config.data, pooling), title, config.data.max_bad_share)
    return parts, key


def find_older_parts(folder: Path) -> list[str] | None:
    """Return the files of a cache written before marks existed; None if the folder is anything else."""
    return all_names(folder, KEY_FILE, "part-*.safetensors", ".part-*.safetensors.*", ".key.json.draft")


def check_pooling(encoder: TokenEncoder, pooling: str) -> None:
    """Raise UserError if the encoder cannot give these features."""
    num_latents = encoder.num_tokens + (encoder.cls_token is not None)
    pool(torch.zeros(1, num_latents, 1), encoder.grid, pooling)


def rows_that_fit(encoder: TokenEncoder, pooling: str) -> int:
    """Return the number of rows in a part. An interruption loses at most one part, and one part of tokens is in memory."""
    num_bytes = 2 * encoder.num_tokens * encoder.width if pooling == "tokens" else 1
    return max(CLIPS_PER_BATCH, min(ROWS_PER_PART, BYTES_PER_PART // num_bytes))


def describe(encoder: TokenEncoder, source: Source, config: PretrainConfig, pooling: str) -> dict[str, Any]:
    """Return all inputs of the features of a source."""
    device = next(encoder.parameters()).device
    rule = {} if config.data.rule == "even" else {"rule": config.data.rule}
    return {
        "format": FORMAT,
        "weights": hash_weights(encoder, config),
        "samples": source.version(),
        "num_samples": len(source),
        "clip": {name: getattr(config.data, name) for name in CLIP_KEYS} | rule,
        "pooling": pooling,
        "precision": precision_of(device),
    }


def key_of(settings: dict[str, Any]) -> str:
    """Return the name of the folder for these inputs."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


def hash_weights(encoder: TokenEncoder, config: PretrainConfig) -> str:
    """Return a hash of all weights by name, and of the settings that the weights do not show."""
    model = config.model
    shape = [model.tubelet, model.patch_px, model.positions, resolve_size(model).num_heads]
    found = hashlib.sha256(json.dumps(shape).encode())
    for name, weight in sorted(encoder.state_dict().items()):
        found.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:24]

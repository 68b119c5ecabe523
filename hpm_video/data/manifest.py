"""Which videos, with which labels: Something-Something V2's own JSON files, or any folder of videos."""

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.config import DataConfig
from hpm_video.types import UserError

log = logging.getLogger("hpm_video")
SUFFIXES = (
    ".webm",
    ".mp4",
    ".mkv",
    ".avi",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ogv",
    ".gif",
    ".flv",
    ".3gp",
    ".wmv",
    ".ts",
)
SSV2_FILES = {
    "labels": ("labels.json", "something-something-v2-labels.json"),
    "train": ("train.json", "something-something-v2-train.json"),
    "validation": ("validation.json", "something-something-v2-validation.json"),
}
SSV2_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Videos in a fixed order; `paths` are relative to `root`, labels are -1 where there are none."""

    root: Path
    paths: list[str]
    labels: list[int]
    classes: list[str]
    source: str

    def select(self, rows: list[int]) -> "Manifest":
        return replace(self, paths=[self.paths[i] for i in rows], labels=[self.labels[i] for i in rows])


def open_manifest(config: DataConfig, split: str) -> Manifest | None:
    """split: train or validation. A plain folder has no validation split: None. Raises UserError."""
    root = Path(config.root)
    if not root.exists():
        raise UserError(f"data.root: {root} does not exist; expected a folder of videos")
    if not root.is_dir():
        raise UserError(f"data.root: {root} is a file; expected the folder that holds the videos")
    annotations = _annotation_folder(config)
    if config.format == "ssv2" or (config.format == "auto" and annotations is not None):
        if annotations is None:
            raise UserError(
                f"data.format: ssv2, but neither {root} nor {root / 'labels'} holds labels.json and train.json"
            )
        return _open_ssv2(root, annotations, split, config.max_bad_share)
    return _open_folder(root) if split == "train" else None


def hold_out(manifest: Manifest, num: int, seed: int) -> tuple[Manifest, Manifest]:
    """(the rest, `num` videos drawn by seed); of small sets at most a quarter, and a single video is in both."""
    count = len(manifest.paths)
    if count == 1:
        log.warning("one video only: the held-out clip is of the video that is trained on")
        return manifest, manifest
    drawn = np.random.default_rng([seed, 1]).permutation(count)[: min(num, max(1, count // 4))].tolist()
    return manifest.select(sorted(set(range(count)) - set(drawn))), manifest.select(sorted(drawn))


def _open_folder(root: Path) -> Manifest:
    found: list[str] = []
    seen: set[str] = set()  # links are followed, a folder is read once: a link to a folder above it would not end
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        found += [str(inside / name) for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise UserError(f"data.root: {root} holds no video; looked for {' '.join(SUFFIXES)} in it and its subfolders")
    found.sort()
    return Manifest(root=root, paths=found, labels=[-1] * len(found), classes=[], source=f"folder {root}")


def _annotation_folder(config: DataConfig) -> Path | None:
    given = [Path(config.annotations)] if config.annotations else [Path(config.root), Path(config.root) / "labels"]
    for folder in given:
        if all(any((folder / name).is_file() for name in SSV2_FILES[part]) for part in ("labels", "train")):
            return folder
    if config.annotations:
        raise UserError(f"data.annotations: {config.annotations} does not hold labels.json and train.json")
    return None


def _open_ssv2(root: Path, annotations: Path, split: str, max_missing_share: float) -> Manifest | None:
    file = next((annotations / name for name in SSV2_FILES[split] if (annotations / name).is_file()), None)
    if file is None:
        return None
    class_numbers = _read_classes(next(annotations / n for n in SSV2_FILES["labels"] if (annotations / n).is_file()))
    rows = _read_json(file, list, 'a list of rows {"id": "1", "template": "Moving [something] up"}')
    videos = _index_videos(root)
    paths, labels, missing = [], [], []
    for number, row in enumerate(rows, 1):
        name, label = _read_row(row, f"{file}, row {number}", class_numbers)
        if name in videos:
            paths.append(videos[name])
            labels.append(label)
        else:
            missing.append(f"row {number} (id {name})")
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        text = f"{file}: {len(missing)} of {len(rows)} rows have no video in {root}: {shown}"
        if len(missing) > max_missing_share * len(rows):
            raise UserError(
                f"{text}; expected ID.webm or ID.mp4 in {' or '.join(SSV2_VIDEO_FOLDERS)} (data.max_bad_share)"
            )
        log.warning("%s; left out", text)
    if not paths:
        raise UserError(f"{file}: no rows; expected at least one")
    classes = sorted(class_numbers, key=class_numbers.__getitem__)
    return Manifest(root=root, paths=paths, labels=labels, classes=classes, source=f"SSv2 {file}")


def _read_classes(file: Path) -> dict[str, int]:
    labels = _read_json(file, dict, 'an object {"Moving something up": "0", ...}')
    try:
        numbers = {str(name): int(number) for name, number in labels.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: {error}; expected class numbers, as in {{'Moving something up': '0'}}") from error
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise UserError(f"{file}: the class numbers are not 0 to {len(numbers) - 1}, each once")
    return numbers


def _read_row(row: Any, where: str, class_numbers: dict[str, int]) -> tuple[str, int]:
    if not isinstance(row, dict) or "id" not in row or "template" not in row:
        raise UserError(f"{where}: {str(row)[:80]}; expected an object with 'id' and 'template'")
    template = str(row["template"]).replace("[", "").replace("]", "")
    if template not in class_numbers:
        raise UserError(
            f"{where}: template '{row['template']}' is no class of labels.json (brackets removed: '{template}')"
        )
    return str(row["id"]), class_numbers[template]


def _read_json(file: Path, shape: type, expected: str) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); expected {expected}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: no valid JSON ({error.msg}); expected {expected}") from error
    if not isinstance(content, shape):
        raise UserError(f"{file}: holds a {type(content).__name__}; expected {expected}")
    return content


def _index_videos(root: Path) -> dict[str, str]:
    """id -> path relative to root, from one listing of each folder (not one look-up for each of 220,000 rows)."""
    videos: dict[str, str] = {}
    for folder in SSV2_VIDEO_FOLDERS:
        if (root / folder).is_dir():
            for name in sorted(os.listdir(root / folder), key=lambda name: (not name.endswith(".webm"), name)):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:  # of several files of an id SSv2's own .webm, on every machine
                    videos.setdefault(stem, os.path.normpath(os.path.join(folder, name)))
    return videos

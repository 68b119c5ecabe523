"""Read folders with a sub-folder for each class, and draw validation splits from them."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hpm_video.catalog.listing import IMAGE_SUFFIXES, SUFFIXES, list_folder, split_folders
from hpm_video.catalog.roots import find_similar
from hpm_video.catalog.rows import Found, Row
from hpm_video.catalog.texts import keep_utf8
from hpm_video.errors import UserError
from hpm_video.streams import VALIDATION_SHARE


def read_class_folders(
    root: Path,
    suffixes: tuple[str, ...] = SUFFIXES,
    clean: Callable[[str], str] = str,
    unlabelled: bool = False,
) -> Found:
    """Read class folders from `root` itself, or from its train/, val/ and test/. The classes are the sorted folder names.

    clean: turns a folder name into a class name. A split without sub-folders has no labels. Raises UserError if some
    files of a split lie in class folders and some do not.
    """
    named: dict[str, list[tuple[str, str]]] = {}  # split -> (path relative to root, class or "")
    for split, folder in (split_folders(root) or {"train": "."}).items():
        paths = keep_utf8(list_folder(root / folder, suffixes), root / folder)
        beside = [] if unlabelled else [path for path in paths if "/" not in path]
        if 0 < len(beside) < len(paths):
            raise UserError(
                f"{root / folder / beside[0]} lies beside class folders; expected every file in one, or none"
                " (recipe `folder` has --unlabelled)"
            )
        has_labels = not unlabelled and not beside
        named[split] = [
            (os.path.normpath(f"{folder}/{p}"), clean(_one_line(p.split("/")[0])) if has_labels else "") for p in paths
        ]
    classes = sorted({name for rows in named.values() for _, name in rows} - {""})
    if similar := find_similar(classes):
        raise UserError(
            f"{root}: {' and '.join(similar)} look like splits, not like classes; expected train/ and val/ (links are enough)"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    frames = 1 if suffixes == IMAGE_SUFFIXES else None
    splits = {split: [Row(p, numbers.get(n, -1), frames) for p, n in rows] for split, rows in named.items()}
    return Found(splits, classes, {})


def _one_line(name: str) -> str:
    """Return a name without line breaks, as classes.txt holds one name per line."""
    return re.sub(r"[\r\n]+", " ", name)


def hold_out_share(found: Found, share: float, seed: int, pattern: str = "") -> Found:
    """Draw about this share of the training samples with the seed and make them the validation split.

    Each class keeps at least one training sample. pattern: a regular expression; rows in whose paths it finds the same
    text are a group, and a group is never divided. Raises UserError if there already is a validation split.
    """
    rows = found.splits["train"]
    if pattern:
        try:
            matches = [re.search(pattern, row.path) for row in rows]
        except re.error as error:
            raise UserError(f"--group {pattern}: {error}; expected a regular expression, as in _g[0-9]+_") from error
        rows = [row._replace(group=match.group() if match else "") for row, match in zip(rows, matches, strict=True)]
    if not share:
        return found._replace(splits={**found.splits, "train": rows})
    if not 0 < share < 1 or "validation" in found.splits:
        raise UserError(f"--validation-share {share}: expected 0 to 1, and no validation folder beside train/")
    by_group: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_group.setdefault(row.group or f"/{row.path}", []).append(number)
    groups = list(by_group.values())
    remaining = Counter(row.label for row in rows)
    drawn: set[int] = set()
    for group in VALIDATION_SHARE.numpy(seed).permutation(len(groups)):
        members = groups[group]
        labels = Counter(rows[number].label for number in members)
        if len(drawn) + len(members) / 2 <= share * len(rows) and all(remaining[k] > n for k, n in labels.items()):
            drawn.update(members)
            remaining -= labels
    train = [row for number, row in enumerate(rows) if number not in drawn]
    validation = [rows[number] for number in sorted(drawn)]
    return found._replace(splits={**found.splits, "train": train, "validation": validation})

"""Checks of the rows of a recipe before they are written."""

from collections.abc import Iterable, Sequence

import numpy as np

from hpm_video.catalog.rows import Row
from hpm_video.errors import UserError


def check_rows(
    splits: dict[str, Sequence[Row]],
    num_classes: int,
    expected: dict[str, int] | None = None,
    gaps_are_errors: bool = True,
) -> list[str]:
    """Return lines to print: counts beside the expected ones, duplicates, overlaps of splits.

    Raises UserError for labels outside 0..num_classes - 1, for a split in which only some rows have a label, and for
    a class without a training sample (only reported if `gaps_are_errors` is False: a part of a known set).
    """
    told = []
    for split, rows in splits.items():
        gaps = _check_labels(split, rows, num_classes)
        if gaps and gaps_are_errors:
            raise UserError(f"{split}: no sample of class {', '.join(map(str, gaps[:5]))}; expected some of each")
        if gaps:
            told.append(f"{split}: {len(gaps)} of {num_classes} classes have no sample")
        count = f"{split}: {len(rows):,} rows"
        if expected and split in expected:
            off = len(rows) - expected[split]
            count += f"; expected {expected[split]:,}" + (f" ({off:+,})" if off else "")
        told.append(count)
        seen: set[tuple] = set()
        keys = [(row.path, row.first_frame, row.start_s, row.stop_s) for row in rows]
        twice = [key[0] for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
        if twice:
            told.append(f"{split}: {len(twice)} rows name a sample again, {_some(twice)}")
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = sorted({r.path for r in splits[first]} & {r.path for r in splits[second]})
            if both:
                told.append(f"{len(both)} samples are in {first} and in {second}: {_some(both)}")
            groups = sorted(({r.group for r in splits[first]} & {r.group for r in splits[second]}) - {""})
            if groups:
                told.append(f"{len(groups)} groups are in {first} and in {second}: {_some(groups)}")
    return told


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _check_labels(split: str, rows: Iterable[Row], num_classes: int) -> list[int]:
    """Return the classes that no row of the training split has. Raises UserError."""
    labels = np.array([row.label for row in rows], dtype=np.int64)
    named = labels[labels >= 0]
    if not len(named) and (labels == -1).all():
        return []
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        row = int(outside[0])
        raise UserError(f"{split}, row {row + 1}: label {labels[row]}; expected 0 to {num_classes - 1} in every row")
    return sorted(set(range(num_classes)) - set(named.tolist())) if split == "train" else []

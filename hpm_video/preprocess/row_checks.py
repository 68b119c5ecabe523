"""Check the rows of a recipe before they are written."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from hpm_video.catalog.rows import Row
from hpm_video.catalog.texts import name_some
from hpm_video.errors import UserError


def check_rows(
    splits: dict[str, Sequence[Row]],
    num_classes: int,
    expected: dict[str, int] | None = None,
    gaps_are_errors: bool = True,
) -> list[str]:
    """Return a report, as lines: counts and the expected counts, duplicates, overlaps of splits.

    Raises UserError for labels outside 0..num_classes - 1, and for a split in which only some rows have a label. A class
    without a training sample is an error too, or only reported if `gaps_are_errors` is False (a part of a known set).
    """
    report = []
    for split, rows in splits.items():
        gaps = _check_labels(split, rows, num_classes)
        if gaps and gaps_are_errors:
            raise UserError(f"{split}: no sample of class {', '.join(map(str, gaps[:5]))}; expected some of each")
        if gaps:
            report.append(f"{split}: {len(gaps)} of {num_classes} classes have no sample")
        count = f"{split}: {len(rows):,} rows"
        if expected and split in expected:
            off = len(rows) - expected[split]
            count += f"; expected {expected[split]:,}" + (f" ({off:+,})" if off else "")
        report.append(count)
        seen: set[tuple] = set()
        keys = [(row.path, row.first_frame, row.start_s, row.stop_s) for row in rows]
        twice = [key[0] for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
        if twice:
            report.append(f"{split}: {len(twice)} rows name a sample again, {name_some(twice)}")
    for first, second in combinations(splits, 2):
        both = sorted({row.path for row in splits[first]} & {row.path for row in splits[second]})
        if both:
            report.append(f"{len(both)} samples are in {first} and in {second}: {name_some(both)}")
        groups = sorted(({row.group for row in splits[first]} & {row.group for row in splits[second]}) - {""})
        if groups:
            report.append(f"{len(groups)} groups are in {first} and in {second}: {name_some(groups)}")
    return report


def _check_labels(split: str, rows: Iterable[Row], num_classes: int) -> list[int]:
    """Return the classes without a row, if this is the training split. Raises UserError for a label that is no class."""
    labels = np.array([row.label for row in rows], dtype=np.int64)
    named = labels[labels >= 0]
    if not len(named) and (labels == -1).all():
        return []
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        row = int(outside[0])
        raise UserError(f"{split}, row {row + 1}: label {labels[row]}; expected 0 to {num_classes - 1} in every row")
    return sorted(set(range(num_classes)) - set(named.tolist())) if split == "train" else []

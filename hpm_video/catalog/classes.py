"""Find the classes of a list: numbers, names, or both in two columns that must agree."""

import re
from collections.abc import Sequence

from hpm_video.catalog.columns import is_number, plain
from hpm_video.errors import UserError

NONE = ("", "-1")  # no label
# Columns whose cells can hold several labels
PLURAL = ("labels", "classes", "targets", "categories", "actions", "activities")
MANY = 20  # rows; a longer list with about one class per row gets a note

Labelled = list[tuple[str, tuple[str, ...]]]  # (file and line, label in each label column)


class Labels:
    """Hold the classes of all lines, and give each line its class number."""

    def __init__(self, lines: Labelled, columns: Sequence[str], names: list[str] | None) -> None:
        self.notes: list[str] = []
        self._whole = _find_whole_floats(lines, len(columns))
        self._columns = columns
        lines = [(where, self._read(labels)) for where, labels in lines]
        labelled = [(where, labels) for where, labels in lines if not set(labels) <= set(NONE)]
        for place, column in enumerate(columns):
            _check_single(labelled, place, column)
        self._name_column = _find_name_column(labelled, len(columns), names)
        if len(columns) > 1:
            _check_agreement(labelled, columns)
        self.classes = names or self._find_classes(
            [(where, labels[self._name_column]) for where, labels in labelled], labelled
        )
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        if not names and len(labelled) > MANY and len(self.classes) > 0.9 * len(labelled):
            self.notes.append(
                f"nearly every row has a class of its own ({len(self.classes):,} classes of {len(labelled):,} rows): is "
                f"{columns[self._name_column] or 'the last column'} the label?"
            )

    def number(self, where: str, labels: tuple[str, ...]) -> int:
        """Return the class number of a line, -1 if it has no label. Raises UserError."""
        labels = self._read(labels)
        if not labels or set(labels) <= set(NONE):
            return -1
        label = labels[self._name_column]
        if label in self._numbers:
            return self._numbers[label]
        if is_number(label) and 0 <= int(label) < len(self._numbers):
            return int(label)
        some = ", ".join(list(self._numbers)[:3])
        raise UserError(f"{where}: label '{label}'; expected 0 to {len(self._numbers) - 1}, or a class of {some}, ...")

    def _read(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            label.removesuffix(".0") if whole else label for label, whole in zip(labels, self._whole, strict=False)
        )

    def _find_classes(self, labelled: list[tuple[str, str]], lines: Labelled) -> list[str]:
        """Return the class names: sorted, or ordered by a column of numbers. Without names, return the numbers."""
        named = [(where, label) for where, label in labelled if not is_number(label)]
        if named and len(named) < len(labelled):
            raise UserError(f"{named[0][0]}: label '{named[0][1]}'; expected a number, as other lines have one")
        if named:
            order = next(
                (p for p in range(len(self._columns)) if all(is_number(labels[p]) for _, labels in lines)), None
            )
            if order is None:
                return sorted({label for _, label in labelled})
            return list(
                dict.fromkeys(labels[self._name_column] for _, labels in sorted(lines, key=lambda x: int(x[1][order])))
            )
        return self._find_numbers(labelled) if labelled else []

    def _find_numbers(self, labelled: list[tuple[str, str]]) -> list[str]:
        used = sorted({int(label) for _, label in labelled})
        wanted = range(used[-1] + 1)
        if used[0] < 0 or len(used) == len(wanted):
            return [str(number) for number in wanted]  # `number` refuses negative ones and names their line
        taken = set(used)
        gaps = ", ".join(str(number) for number in wanted[: len(used) + 5] if number not in taken)[:60]
        if self._columns[self._name_column]:
            self.notes.append(f"labels are numbers with gaps (no {gaps}): the classes are named by their numbers")
            return [str(number) for number in used]
        where = next(where for where, label in labelled if int(label) == used[-1])
        raise UserError(
            f"{where}: label {used[-1]}, but no line has label {gaps}; expected class numbers from 0 without gaps (add a "
            "header path,label if some are unused, or set --columns if this is not the label)"
        )


def _find_whole_floats(lines: Labelled, count: int) -> list[bool]:
    """Return, for each column, whether all of its labels are whole numbers written as 3.0."""
    values = [[labels[place] for _, labels in lines if labels[place] not in NONE] for place in range(count)]
    return [bool(column) and all(re.fullmatch(r"-?[0-9]{1,9}\.0", label) for label in column) for column in values]


def _check_single(labelled: Labelled, place: int, column: str) -> None:
    """Raise UserError if a cell of a column such as `actions` holds several labels."""
    if plain(column) in PLURAL:
        for where, labels in labelled:
            if re.search(r"[;|,\[]", labels[place]):
                raise UserError(
                    f"{where}: {column} '{labels[place][:60]}' holds several labels; expected one class for each sample. "
                    "Write such a column, or skip this one: --columns path,- (- for one that is not used)"
                )


def _find_name_column(labelled: Labelled, count: int, names: list[str] | None) -> int:
    """Return the first column whose labels are names (all in `names`, if given), or else the first column."""
    for place in range(count):
        if any(not is_number(labels[place]) for _, labels in labelled):
            if not names or all(labels[place] in names for _, labels in labelled):
                return place
    return 0


def _check_agreement(labelled: Labelled, columns: Sequence[str]) -> None:
    """Raise UserError unless the labels of each column match those of the first column one to one."""
    for place in range(1, len(columns)):
        pairs: dict[str, str] = {}
        back: dict[str, str] = {}
        for where, labels in labelled:
            first, other = labels[0], labels[place]
            if pairs.setdefault(first, other) != other or back.setdefault(other, first) != first or first in NONE:
                raise UserError(
                    f"{where}: {columns[0]} '{first}' and {columns[place]} '{other}' do not name the same classes as in other "
                    "lines; expected one column of labels: --columns path,label,- (- for one that is not used)"
                )

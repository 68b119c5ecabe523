"""Read columns of yes and no such as `is_train` as the split of a row."""

from typing import Any

from hpm_video.catalog.columns import meaning_of, plain
from hpm_video.catalog.list_table import Table
from hpm_video.errors import UserError

FLAGS = {  # names in headers, compared as in columns.py; `valid` is missing, as it may say that a row is usable
    "train": "train istrain intrain training istraining",
    "validation": "val isval validation isvalidation isdev",
    "test": "test istest intest testing istesting",
}
SPLITS = {word: split for split, words in FLAGS.items() for word in words.split()}
YES, NO = ("1", "1.0", "true", "yes", "y", "t"), ("0", "0.0", "false", "no", "n", "f", "")


def join_flags(table: Table) -> tuple[Table, list[str]]:
    """Return the table with one column `split` instead of its columns of yes and no, and the names of these columns.

    A row of no column is of the first split that has none: with only `is_train`, of the validation split. The table does not
    change if it has a column of splits or other values in them. Raises UserError if a row is in two splits.
    """
    places = {place: SPLITS[plain(name)] for place, name in enumerate(table.names) if plain(name) in SPLITS}
    if not places or any(meaning_of(name) == "split" for name in table.names):
        return table, []
    width = len(table.names)
    if not all(len(row) == width and all(_word(row[p]) in YES + NO for p in places) for _, row in table.rows):
        return table, []
    left = next((split for split in FLAGS if split not in places.values()), "")
    rows = []
    for where, row in table.rows:
        chosen = [place for place in places if _word(row[place]) in YES]
        if len(chosen) > 1 or not (chosen or left):
            some = " and ".join(table.names[place] for place in chosen or places)
            raise UserError(f"{where}: {'both' if chosen else 'none'} of {some}; expected one split for each row")
        rest = [cell for place, cell in enumerate(row) if place not in places]
        rows.append((where, [*rest, places[chosen[0]] if chosen else left]))
    names = [name for place, name in enumerate(table.names) if place not in places]
    return table._replace(names=(*names, "split"), rows=rows), [table.names[place] for place in places]


def _word(cell: Any) -> str:
    return cell.strip().casefold() if isinstance(cell, str) else "?"

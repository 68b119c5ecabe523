"""Tables of named rows: the values that a key of the schema can have, and where each of them is implemented.

A row is plain data, so that choices, help and checks need not import the implementations. A new choice is one file with its
implementation and one row. A program outside this package calls `TABLE.add(name, row)` before it loads a configuration.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, kw_only=True)
class Row:
    """A choice: one line of help, and its implementation: an object, "package.module" or "package.module:name"."""

    help: str
    implementation: Any

    def load(self) -> Any:
        """Return the implementation, imported if need be. Raises ImportError or AttributeError if it does not exist."""
        if not isinstance(self.implementation, str):
            return self.implementation
        place, _, name = self.implementation.partition(":")
        module = importlib.import_module(place)
        return getattr(module, name) if name else module


AnyRow = TypeVar("AnyRow", bound=Row)


class Table(Mapping[str, AnyRow], Generic[AnyRow]):
    """The rows that a key of the schema chooses from, in the order of `--help`."""

    def __init__(self, **rows: AnyRow) -> None:
        self.rows = dict(rows)

    def add(self, name: str, row: AnyRow) -> None:
        """Add a choice. Raises ValueError if the name is taken, as configurations of older runs must keep their meaning."""
        if name in self.rows:
            raise ValueError(f"{name}: already a choice; expected another name than {', '.join(self.rows)}")
        self.rows[name] = row

    def __getitem__(self, name: str) -> AnyRow:
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> str:
        """Return the names with their help, for `--help`."""
        return "; ".join(f"{name}: {row.help}" for name, row in self.rows.items())

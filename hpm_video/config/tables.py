"""Tables of named rows: what a key of the schema can be set to, and where each choice is implemented.

A row is plain data, so that choices, help and checks need no import of the method. A new choice is one file with its
implementation and one row; a program of its own adds its row with `TABLE.add(name, row)` before it loads a configuration.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, kw_only=True)
class Row:
    """A choice: one line of help, and its implementation (the object, or "package.module:name", imported at first use)."""

    help: str
    implementation: Any

    def load(self) -> Any:
        """Import the implementation. Raises ImportError or AttributeError if it does not exist."""
        if not isinstance(self.implementation, str):
            return self.implementation
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)


AnyRow = TypeVar("AnyRow", bound=Row)


class Table(Mapping[str, AnyRow], Generic[AnyRow]):
    """The rows that a key of the schema chooses from, in the order of `--help`."""

    def __init__(self, **rows: AnyRow) -> None:
        self.rows = dict(rows)

    def add(self, name: str, row: AnyRow) -> None:
        """Add a choice. Raises ValueError if the name is taken: a run's configuration must keep its meaning."""
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

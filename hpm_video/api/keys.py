"""Turn keyword arguments into KEY=VALUE settings, as the command line takes them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any


def make_overrides(keys: Mapping[str, Any], preset: str | list[str] | None = None) -> list[str]:
    """Return KEY=VALUE for the presets, then for the keys.

    A key is dotted ("mask.ratio"), or a section with a mapping (mask={"ratio": 0.8}). None is null.
    """
    presets = [preset] if isinstance(preset, str) else list(preset or [])
    return [*(f"preset={name}" for name in presets), *(f"{name}={_write(value)}" for name, value in _flatten(keys))]


def join_keys(keys: Mapping[str, Any], **named: Any) -> dict[str, Any]:
    """Return the named arguments that are not None (data_root for data.root), then the keys, which win.

    data_root can also be a mapping: the section `data`.
    """
    found = {name.replace("_", ".", 1): value for name, value in named.items() if value is not None}
    root = found.get("data.root")
    if isinstance(root, Mapping):
        found = {"data": root} | {name: value for name, value in found.items() if name != "data.root"}
    return found | dict(keys)


def _flatten(keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in keys.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", leaf) for inner, leaf in value.items())
        else:
            yield name, value


def _write(value: Any) -> str:
    """Return a value as the command line takes it: JSON is YAML."""
    if isinstance(value, PurePath):
        value = str(value)
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """Return a number of NumPy or torch as a plain one, and anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)

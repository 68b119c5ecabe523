"""Read values into a schema of dataclasses: one section for each part of a run, one field for each key.

Values come from the defaults of the dataclasses, then from layers such as a YAML file and dotted overrides
(`optim.batch_size=64`). An unknown key and a value of the wrong type or out of bounds raise a `UserError` that names the key,
the value and what was expected.
"""

import copy
import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hpm_video.config.other_names import find_other_name
from hpm_video.config.tables import Table
from hpm_video.errors import UserError
from hpm_video.files import expand_home
from hpm_video.reading import brief, check_references, one_line, read_value, read_yaml

BASE = "the pretrained weights"
Layer = tuple[Any, str]  # sections of keys, and where they come from, for messages
MOST_INT, MOST_ITEMS = 2**63 - 1, 100
MOST_CHARACTERS, MOST_NAME_BYTES = 4000, 255  # of paths, on the usual file systems


def key(  # noqa: PLR0913
    default: Any,
    help: str,
    choices: Sequence[str] | Table = (),
    least: float | None = None,
    most: float | None = None,
    any_length: bool = False,
    path: bool = False,
    older: Any = MISSING,
    older_if: tuple[str, Any] | None = None,
) -> Any:
    """Return a field of the schema: default, one line of help with the unit, and the values it takes.

    A list has as many values as its default; with `any_length`, at least one. In a `path` a leading ~ is the home folder. The
    choices of a table include rows that are added later. older: the default of earlier versions, if it has changed. older_if
    (key, value): earlier versions had no such key, and behaved like `older` in runs that set that other key to this value.
    """
    choices = choices if isinstance(choices, Table) else tuple(choices)
    metadata = {"help": help, "choices": choices, "least": least, "most": most, "any_length": any_length}
    metadata |= {"path": path, "older": older, "older_if": older_if}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def older_defaults(schema: type, tree: Any = None) -> dict[str, dict[str, Any]]:
    """Return the defaults of earlier versions that differ from today's, section -> key -> value. tree: the file of a run, for
    keys that were added since (`older_if`)."""
    given = dict(_leaves(schema, tree)) if isinstance(tree, dict) else {}
    found: dict[str, dict[str, Any]] = {}
    for name, f in all_fields(schema):
        condition = f.metadata["older_if"]
        applies = condition is None or (name not in given and given.get(condition[0]) == condition[1])
        if f.metadata["older"] != MISSING and applies:
            section, leaf = name.split(".")
            found.setdefault(section, {})[leaf] = f.metadata["older"]
    return found


def read_values(schema: type, layers: Iterable[Layer]) -> Any:
    """Return an instance of the schema: the defaults, with each layer on top of the one before. Raises UserError."""
    merged = copy.deepcopy(_empty(schema))
    for tree, source in layers:
        _merge(schema, merged, tree, source)
    known = dict(all_fields(schema))
    try:
        config = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        name = error.full_key or "a key"
        wanted = known[".".join(name.split("[")[0].split(".")[:2])].metadata["help"]
        raise UserError(f"{name} is not set: expected {wanted} (give {name}=...)") from error
    except (OmegaConfBaseException, RecursionError, OverflowError) as error:  # ${...} that leads nowhere, or to itself
        name = getattr(error, "full_key", None) or "${...}"
        reason = one_line(Exception(getattr(error, "msg", None) or "a circle of references"))
        raise UserError(f"{name}: {reason}; expected ${{section.key}} of a key that exists and fits") from error
    check_values(config)
    _expand_paths(config)
    return config


@lru_cache
def _empty(schema: type) -> DictConfig:
    return OmegaConf.structured(schema)


def read_file(file: Path) -> dict[str, Any]:
    """Return the sections of a YAML file. Raises UserError."""
    tree = read_yaml(file)
    if not isinstance(tree, dict):
        raise UserError(f"configuration file {file} is a list; expected sections of KEY: VALUE, as in --help")
    return tree


def read_override(override: str) -> dict[str, Any]:
    """Return SECTION.KEY=VALUE as a section with one key. Raises UserError."""
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{brief(override)}: expected KEY=VALUE, as in optim.batch_size=64")
    try:
        tree = read_value(text)
    except UserError as error:
        raise UserError(f"{brief(override)}: {error}") from error
    for part in reversed(name.split(".")):
        tree = {part: tree}
    return tree


def _merge(schema: type, base: Any, update: Any, source: str) -> None:
    known = dict(all_fields(schema))
    for name, value in _leaves(schema, update):
        if name not in known:
            raise UserError(f"unknown key {brief(name)} (from {source}){_suggestion(name[:200], known)}")
        if value == MISSING:
            continue
        check_references(value, name)
        if value == "" and source != BASE:
            raise UserError(f"{name}: '' is empty (from {source}); expected {known[name].metadata['help']}")
        try:
            OmegaConf.update(base, name, value, merge=False)
        except (OmegaConfBaseException, TypeError, ValueError, OverflowError) as error:
            wanted = f"{type_name(known[name])}{_example(name, known[name])}: {known[name].metadata['help']}"
            raise UserError(f"{name}: {brief(value)} (from {source}); expected {wanted}") from error


def _expand_paths(config: Any) -> None:
    for name, f in all_fields(type(config)):
        section, leaf = (getattr(config, name.split(".")[0]), name.split(".")[1])
        if f.metadata["path"] and getattr(section, leaf):
            setattr(section, leaf, expand_home(getattr(section, leaf)))


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: the key that was meant, by its own name, by one of other programs, or by its letters."""
    section, _, leaf = name.rpartition(".")
    other = [key for key in known if key == find_other_name(name)]
    same = [key for key in known if key.endswith("." + leaf)]
    near = other + same if other and other[0].startswith(f"{section}.") else same + other
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        leaves = difflib.get_close_matches(leaf, [key.split(".")[-1] for key in known], n=1)
        near = [key for key in known if leaves and key.endswith("." + leaves[0])]
    return f"; did you mean '{near[0]}'?" if near else "; --help lists every key"


def _leaves(schema: type, tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the dotted names and values of a tree; a dict that is not a section of the schema is a value."""
    sections = {f.name for f in dataclasses.fields(schema)}
    found = []
    for name, value in (tree or {}).items():
        dotted = f"{prefix}{name}"
        if not prefix and name in sections and (isinstance(value, dict) or value is None):
            found += _leaves(schema, value, f"{name}.")  # a section without keys sets nothing
        else:
            found.append((dotted, value))
    return found


def all_fields(schema: type) -> list[tuple[str, dataclasses.Field]]:
    """Return (dotted name, field) of every key, in the order of the schema."""
    return [
        (f"{section.name}.{f.name}", f)
        for section in dataclasses.fields(schema)
        for f in dataclasses.fields(typing.cast(Any, section.type))
    ]


def default_of(f: dataclasses.Field) -> Any:
    """Return the default of a key."""
    return f.default_factory() if callable(f.default_factory) else f.default


def type_name(f: dataclasses.Field) -> str:
    """Return the type of a key in plain words: 'int or null', 'list of float'."""
    text = f.type.__name__ if isinstance(f.type, type) and not typing.get_args(f.type) else str(f.type)
    return text.replace("list[", "list of ").replace("]", "").replace(" | None", " or null").replace(" | ", ", ")


def _example(name: str, f: dataclasses.Field) -> str:
    """Return ', as in KEY=[...]' for a list, whose form on the command line is not obvious."""
    default = default_of(f)
    return f", as in {name}=[{','.join(map(str, default))}]" if isinstance(default, list) and default else ""


def describe_fields(schema: type) -> str:
    """Return the text of --help: every key with default, choices and help."""
    lines = []
    section = ""
    for name, f in all_fields(schema):
        if name.split(".")[0] != section:
            section = name.split(".")[0]
            lines.append(f"\n{section}")
        choices = f" [{'|'.join(f.metadata['choices'])}]" if f.metadata["choices"] else ""
        lines.append(f"  {name:<36} {_shown(default_of(f)):<14} {help_of(f)}{choices}")
    return "\n".join(lines).lstrip("\n")


def help_of(f: dataclasses.Field) -> str:
    """Return the help of a key, with the help of each choice if they are a table."""
    text, choices = f.metadata["help"], f.metadata["choices"]
    return f"{text}: {choices.describe()}" if isinstance(choices, Table) else text


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return "(required)" if default == MISSING else str(default)


def check_values(config: Any) -> None:
    """Raise UserError if the value of a key is not one of its choices, or out of bounds."""
    for name, f in all_fields(type(config)):
        section, leaf = name.split(".")
        value = getattr(getattr(config, section), leaf)
        if value is None:
            continue
        if isinstance(value, str):
            _check_text(name, f, value)
        if isinstance(value, list):
            _check_length(name, f, value)
        _check_bounds(name, f, value)


def _check_bounds(name: str, f: dataclasses.Field, value: Any) -> None:
    """Raise UserError if a number is not finite or out of bounds."""
    wanted, least, most = f.metadata["help"], f.metadata["least"], f.metadata["most"]
    for number in value if isinstance(value, list) else [value]:
        if not isinstance(number, int | float):
            continue
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{name}: {value}; expected a finite number ({wanted})")
        if (least is not None and number < least) or (most is not None and number > most):
            low = f"at least {least}" if least is not None and number < least else ""
            bounds = (
                f"{least} to {most}"
                if most is not None and most <= 100 and least is not None
                else low or f"at most {most:,}"
            )
            raise UserError(f"{name}: {brief(value)}; expected {bounds} ({wanted})")
        if isinstance(number, int) and abs(number) > MOST_INT:
            raise UserError(f"{name}: {brief(value)}; expected at most {MOST_INT:,} ({wanted})")


def _check_text(name: str, f: dataclasses.Field, value: str) -> None:
    """Raise UserError if a text is not one of the choices, or cannot be the name of a file."""
    wanted = f.metadata["help"]
    if f.metadata["choices"]:
        if value not in f.metadata["choices"]:
            raise UserError(f"{name}: {brief(value)}; expected {_named_choices(f)}")
        return
    try:
        parts = [os.fsencode(part) for part in value.split("/")]
    except UnicodeEncodeError as error:
        raise UserError(f"{name}: {brief(value)} has characters that are not Unicode; expected {wanted}") from error
    if "\0" in value or len(value) > MOST_CHARACTERS or ("://" not in value and max(map(len, parts)) > MOST_NAME_BYTES):
        limits = f"at most {MOST_CHARACTERS} characters, none of them NUL, {MOST_NAME_BYTES} bytes between two slashes"
        raise UserError(f"{name}: {brief(value, 60)}; expected {limits} ({wanted})")


def _named_choices(f: dataclasses.Field) -> str:
    """Return the choices of a key in words, with the number that some keys take instead."""
    named, least = ", ".join(f.metadata["choices"]), f.metadata["least"]
    return f"one of {named}" if least is None else f"{named} or a whole number of at least {least}"


def _check_length(name: str, f: dataclasses.Field, value: list) -> None:
    if f.metadata["any_length"]:
        if not value:
            raise UserError(f"{name}: []; expected at least one value ({f.metadata['help']})")
        if len(value) > MOST_ITEMS:
            raise UserError(f"{name}: {len(value)} values; expected at most {MOST_ITEMS} ({f.metadata['help']})")
    elif len(value) != len(default_of(f)):
        raise UserError(f"{name}: {brief(value)}; expected {len(default_of(f))} values ({f.metadata['help']})")

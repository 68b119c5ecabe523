"""A schema of dataclasses: one section for each part of a run, one field for each key, and how values come in.

Values come from the dataclass defaults, then a YAML file, then dotted overrides (`optim.batch_size=64`). A key that does
not exist and a value of the wrong type or out of bounds are `UserError`s that name the key, the value and what was expected.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hpm_video.errors import UserError
from hpm_video.files import expand_home


def key(  # noqa: PLR0913
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    any_length: bool = False,
    path: bool = False,
) -> Any:
    """A field of the schema: default, one line of help with the unit, and what values it may take.

    A list has as many values as its default, but for `any_length`, where it has at least one. In a `path` a leading ~ is
    the home folder.
    """
    metadata = {"help": help, "choices": tuple(choices), "least": least, "most": most, "any_length": any_length}
    metadata["path"] = path
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def read_values(
    schema: type, file: Path | None, overrides: Iterable[str], base: Mapping[str, Any] | None = None
) -> Any:
    """An instance of the schema: defaults <- base <- YAML file <- dotted overrides, each key checked alone. UserError."""
    merged = OmegaConf.structured(schema)
    if base:
        merged = _merge(schema, merged, OmegaConf.create(dict(base)), "the pretrained weights")
    if file is not None:
        merged = _merge(schema, merged, _read_yaml(file), f"{file}")
    for override in overrides:
        merged = _merge(schema, merged, _read_override(override), "the command line")
    known = dict(all_fields(schema))
    try:
        config = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        name = error.full_key or "a key"
        wanted = known[".".join(name.split("[")[0].split(".")[:2])].metadata["help"]
        raise UserError(f"{name} is not set: expected {wanted} (give {name}=...)") from error
    except OmegaConfBaseException as error:  # ${...} that leads nowhere
        raise UserError(f"{error.full_key}: {error.msg}; expected ${{section.key}} of a key that exists") from error
    _expand_paths(config)
    check_values(config)
    return config


def _read_yaml(file: Path) -> Any:
    if not file.is_file():
        raise UserError(f"configuration file {file} does not exist")
    try:
        tree = OmegaConf.load(file)
    except Exception as error:
        raise UserError(f"configuration file {file} is not valid YAML: {error}") from error
    if not isinstance(tree, DictConfig):
        raise UserError(f"configuration file {file} is a list; expected sections of KEY: VALUE, as in --help")
    return tree


def _read_override(override: str) -> Any:
    if "=" not in override:
        raise UserError(f"'{override}': expected KEY=VALUE, as in optim.batch_size=64")
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:
        raise UserError(f"'{override}': the value is not valid YAML: {error}") from error


def _merge(schema: type, base: Any, update: Any, source: str) -> Any:
    known = dict(all_fields(schema))
    for name, value in _leaves(schema, OmegaConf.to_container(update)):
        if name not in known:
            raise UserError(f"unknown key '{name}' (from {source}){_suggestion(name, known)}")
        if value == MISSING:
            continue
        try:
            OmegaConf.update(base, name, value, merge=False)
        except (OmegaConfBaseException, TypeError) as error:
            wanted = f"{type_name(known[name])}: {known[name].metadata['help']}"
            raise UserError(f"{name}: {value!r} (from {source}); expected {wanted}") from error
    return base


def _expand_paths(config: Any) -> None:
    for name, f in all_fields(type(config)):
        section, leaf = (getattr(config, name.split(".")[0]), name.split(".")[1])
        if f.metadata["path"] and getattr(section, leaf):
            setattr(section, leaf, expand_home(getattr(section, leaf)))


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or difflib.get_close_matches(
        name.split(".")[-1], [n.split(".")[-1] for n in known], n=1
    )
    near = [n for n in known if n == near[0] or n.endswith("." + near[0])] if near else []
    return f"; did you mean '{near[0]}'?" if near else "; --help lists every key"


def _leaves(schema: type, tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of a nested dict; the sections of the schema are descended into, nothing else."""
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
    """(dotted name, field) of every key, in the order of the schema."""
    return [
        (f"{section.name}.{f.name}", f)
        for section in dataclasses.fields(schema)
        for f in dataclasses.fields(typing.cast(Any, section.type))
    ]


def default_of(f: dataclasses.Field) -> Any:
    return f.default_factory() if callable(f.default_factory) else f.default


def type_name(f: dataclasses.Field) -> str:
    """The type of a key in words a user reads: 'int or null', 'list of float'."""
    text = f.type.__name__ if isinstance(f.type, type) and not typing.get_args(f.type) else str(f.type)
    return text.replace("list[", "list of ").replace("]", "").replace(" | None", " or null").replace(" | ", ", ")


def describe_fields(schema: type) -> str:
    """Every key with default, type and help: the text of --help."""
    lines = []
    section = ""
    for name, f in all_fields(schema):
        if name.split(".")[0] != section:
            section = name.split(".")[0]
            lines.append(f"\n{section}")
        choices = f" [{'|'.join(f.metadata['choices'])}]" if f.metadata["choices"] else ""
        lines.append(f"  {name:<36} {_shown(default_of(f)):<14} {f.metadata['help']}{choices}")
    return "\n".join(lines).lstrip("\n")


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    return "(required)" if default == MISSING else str(default)


def check_values(config: Any) -> None:
    """Each key against its own choices and bounds."""
    for name, f in all_fields(type(config)):
        section, leaf = name.split(".")
        value = getattr(getattr(config, section), leaf)
        if value is None:
            continue
        choices, least, most = f.metadata["choices"], f.metadata["least"], f.metadata["most"]
        if isinstance(value, str):
            if choices and value not in choices:
                raise UserError(f"{name}: '{value}'; expected {_named_choices(f)}")
            continue
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"{name}: {value}; expected a finite number ({f.metadata['help']})")
        if (least is not None and not value >= least) or (
            most is not None and not value <= most
        ):  # not a number is neither
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise UserError(f"{name}: {value}; expected {bounds} ({f.metadata['help']})")
        if isinstance(value, list):
            _check_length(name, f, value)


def _named_choices(f: dataclasses.Field) -> str:
    """Return the choices of a key in words; some keys take a number as well."""
    named, least = ", ".join(f.metadata["choices"]), f.metadata["least"]
    return f"one of {named}" if least is None else f"{named} or a whole number of at least {least}"


def _check_length(name: str, f: dataclasses.Field, value: list) -> None:
    if f.metadata["any_length"]:
        if not value:
            raise UserError(f"{name}: []; expected at least one value ({f.metadata['help']})")
    elif len(value) != len(default_of(f)):
        raise UserError(f"{name}: {value}; expected {len(default_of(f))} values ({f.metadata['help']})")

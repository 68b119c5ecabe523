"""Write the schema of a configuration as JSON Schema, for editors that complete and check YAML files."""

import dataclasses
import types
import typing
from typing import Any

from omegaconf import MISSING

from hpm_video.config.presets import PRESETS
from hpm_video.config.run_sections import PretrainConfig
from hpm_video.config.schema import all_fields, default_of, help_of

DRAFT = "https://json-schema.org/draft/2020-12/schema"
PRESET = "a preset, or one of a method and one of a size; the other keys of the file change single values"
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def json_schema(schema: type) -> dict[str, Any]:
    """Return the JSON schema of a configuration file: its sections, and each key with type, bounds, default and help."""
    sections: dict[str, Any] = {}
    if schema is PretrainConfig:
        preset = {"enum": [*PRESETS]}
        sections["preset"] = {"description": PRESET, "anyOf": [preset, {"type": "array", "items": preset}]}
    for name, f in all_fields(schema):
        section, leaf = name.split(".")
        found = sections.setdefault(
            section, {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
        )
        found["properties"][leaf] = _describe(f)
    return {
        "$schema": DRAFT,
        "title": f"hpm-video: {schema.__name__}",
        "type": "object",
        "properties": sections,
        "additionalProperties": False,
    }


def _describe(f: dataclasses.Field) -> dict[str, Any]:
    kinds = typing.get_args(f.type) if isinstance(f.type, types.UnionType) else (f.type,)
    options = [_option(kind, f) for kind in kinds]
    described = options[0] if len(options) == 1 else {"anyOf": options}
    default = default_of(f)
    return {"description": help_of(f), **described, **({} if default == MISSING else {"default": default})}


def _option(kind: Any, f: dataclasses.Field) -> dict[str, Any]:
    """Return the schema of one of the types of a key."""
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": _option(typing.get_args(kind)[0], f), **_lengths(f)}
    option: dict[str, Any] = {"type": PLAIN[kind]}
    if kind is str and f.metadata["choices"]:
        option["enum"] = [*f.metadata["choices"]]
    if kind in (int, float):
        bounds = {"minimum": f.metadata["least"], "maximum": f.metadata["most"]}
        option |= {name: bound for name, bound in bounds.items() if bound is not None}
    return option


def _lengths(f: dataclasses.Field) -> dict[str, int]:
    """Return the bounds on the length of a list: that of its default, or at least one value."""
    default = default_of(f)
    if f.metadata["any_length"] or not isinstance(default, list):
        return {"minItems": 1}
    return {"minItems": len(default), "maxItems": len(default)}

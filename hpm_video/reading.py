"""Read JSON and YAML from any source into plain values; raise an error of one sentence if they are wrong.

Settings come with other people's runs. So no tag makes an object, no anchor grows into gigabytes, and `${section.key}` is
the only reference: a resolver such as `${oc.env:NAME}` could leak facts of this machine into the output of a command. Only
regular files are opened, because reading a FIFO would never end.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from hpm_video.errors import UserError

MOST_BYTES, MOST_VALUES, MOST_DEPTH, MOST_DIGITS = 128 << 10, 10_000, 20, 4000  # of YAML
REFERENCE = re.compile(r"\$\{[A-Za-z_]\w*\.[A-Za-z_]\w*\}")
PLAIN_TAGS = {None, "!"} | {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")
}


def check_file(file: Path, expected: str) -> None:
    """Raise UserError if this is not a regular file."""
    try:
        if file.is_file():
            return
        reason = "does not exist"
        if file.exists():
            reason = "is a folder" if file.is_dir() else "is not a regular file"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    raise UserError(f"{file} {reason}; expected {expected}")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError for any fault, including too deep nesting."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_rows(file: Path, expected: str) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object per line; skip other lines, such as half-written ones.

    Raises UserError if the file cannot be read.
    """
    check_file(file, expected)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); expected {expected}") from error
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(parse_json(line))
    return [row for row in rows if isinstance(row, dict)]


def read_json(file: Path, kind: type, expected: str) -> Any:
    """Return the content of a JSON file. Raises UserError if it is absent, damaged, or not of this kind (dict or list)."""
    check_file(file, expected)
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({one_line(error)}); expected {expected}") from error
    if not isinstance(found, kind):
        raise UserError(f"{file} is damaged: it holds {brief(found, 60)}; expected {expected}")
    return found


def read_yaml(file: Path) -> Any:
    """Return the value of a YAML file. Raises UserError if it is no regular file, not UTF-8, too long or not plain YAML."""
    from omegaconf import OmegaConf

    check_file(file, "a configuration file: YAML, sections of KEY: VALUE")
    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"configuration file {file} cannot be read: {error}; expected YAML in UTF-8") from error
    if len(content) > MOST_BYTES:
        raise UserError(
            f"configuration file {file} is longer than {MOST_BYTES >> 10} KiB; expected sections of KEY: VALUE"
        )
    try:
        kind = check_yaml(text)
        if kind == "scalar":
            raise ValueError("it is one value, not sections of KEY: VALUE")
        return OmegaConf.to_container(OmegaConf.create(text)) if kind else {}
    except UserError as error:
        raise UserError(f"configuration file {file}: {error}") from error
    except Exception as error:  # of yaml and omegaconf
        raise UserError(f"configuration file {file} is not valid YAML: {one_line(error)}") from error


def read_value(text: str) -> Any:
    """Return the value of a YAML text, as it stands after `KEY=`. Raises UserError."""
    from omegaconf import OmegaConf

    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES >> 10} KiB")
        check_yaml(text)
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
    except UserError:
        raise
    except Exception as error:  # of yaml and omegaconf
        raise UserError(f"the value is not valid YAML: {one_line(error)}") from error


class _Open:
    """A list or mapping whose end has not been read yet."""

    def __init__(self, name: str, anchor: str | None, is_mapping: bool) -> None:
        self.name, self.anchor, self.is_mapping = name, anchor, is_mapping
        self.num_values, self.num_children, self.key = 1, 0, ""

    def next_child(self, text: str) -> str:
        """Return the name of the next value inside. text: that of a scalar, which can be a key."""
        place, self.num_children = self.num_children, self.num_children + 1
        if not self.is_mapping:
            return f"{self.name}[{place}]"
        if place % 2 == 0:
            self.key = text[:100]
        return f"{self.name}.{self.key}" if self.name else self.key


def check_yaml(text: str) -> str | None:
    """Return the kind of the value (scalar, sequence, mapping, None if it is empty) without building it.

    Raises UserError for tags, references that call something, anchors that contain themselves or multiply, and YAML that is
    too long or nested too deep.
    """
    import yaml  # here, so that `--help` is quick

    kind: str | None = None
    open_ones, sizes = [_Open("", None, False)], dict[str, int]()  # the document; number of values of each anchor
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            done = open_ones.pop()
            _add(open_ones[-1], done.num_values, done.anchor, sizes)
        elif isinstance(event, yaml.NodeEvent):
            value = event.value if isinstance(event, yaml.ScalarEvent) else ""
            name = open_ones[-1].next_child(value) if len(open_ones) > 1 else ""
            _check_event(event, name, value)
            if isinstance(event, yaml.CollectionStartEvent):
                open_ones.append(_Open(name, event.anchor, isinstance(event, yaml.MappingStartEvent)))
                if event.anchor:
                    sizes.pop(event.anchor, None)
                if len(open_ones) > MOST_DEPTH:
                    raise UserError(f"{name[:100]}: nested more than {MOST_DEPTH} levels deep; expected a plain value")
                kind = kind or ("mapping" if open_ones[-1].is_mapping else "sequence")
            elif isinstance(event, yaml.AliasEvent):
                if any(one.anchor == event.anchor for one in open_ones):
                    raise UserError(f"{name}: the anchor *{event.anchor} contains itself; expected a plain value")
                _add(open_ones[-1], sizes.get(event.anchor, 1), None, sizes)
            else:
                _add(open_ones[-1], 1, event.anchor, sizes)
            kind = kind or "scalar"
    return kind


def _add(above: _Open, num_values: int, anchor: str | None, sizes: dict[str, int]) -> None:
    above.num_values += num_values
    if anchor:
        sizes[anchor] = num_values
    if above.num_values > MOST_VALUES:
        raise UserError(f"more than {MOST_VALUES} values, including those that anchors repeat; expected settings")


def _check_event(event: Any, name: str, value: str) -> None:
    tag = getattr(event, "tag", None)
    if tag not in PLAIN_TAGS:
        raise UserError(f"{name}: the tag {tag}; expected a plain value: text, a number, true, false, null or a list")
    check_references(value, name)
    if len(value) > MOST_DIGITS and value.lstrip("+-")[:1].isdecimal():
        raise UserError(f"{name}: a number of {len(value)} digits; expected a shorter one")


def check_references(value: Any, name: str) -> None:
    """Raise UserError if a text contains `${` in any form but ${section.key}: others can read the environment."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_references(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            check_references(item, name)
    elif isinstance(value, str) and "${" in REFERENCE.sub("", value):
        where = f"{name}: " if name else ""
        raise UserError(
            f"{where}{brief(value)}; expected a value, or ${{section.key}} of a key: nothing else is resolved"
        )


def brief(value: Any, most: int = 200) -> str:
    """Return the repr of a value, cut if it is very long."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number of very many digits"
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(error: Exception) -> str:
    """Return the message of another library's error as one line."""
    return " ".join(str(error).split())[:500]

"""Reference pages from the code: a line `<!-- reference: NAME -->` of a page becomes what PARTS[NAME] returns, at each build.

A Sphinx extension; also without Sphinx, `python docs/reference.py NAME` prints a part.
"""

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import hpm_video
from hpm_video.commands import COMMANDS, find_command
from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.choices import DECODE_CHOICES, DIFFICULTY_SOURCES, MASK_PATTERNS, MASK_STRATEGIES, TARGETS
from hpm_video.config.data_sets import DATA_SETS
from hpm_video.config.presets import PRESET_USES, PRESETS
from hpm_video.config.readers import READERS
from hpm_video.config.schema import MISSING, all_fields, default_of, type_name
from hpm_video.config.tables import Table
from hpm_video.config.trackers import TRACKERS
from hpm_video.weights.exporters import EXPORTERS

MARK = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)
MADE_OF_SEVERAL = ("features",)  # commands whose epilog is a text of their own, and not the list of keys
RECIPES = {"imagenet": "imagenet1k", "kinetics": "kinetics400"}  # name of a set -> its folder in datasets/


def plain(text: str) -> str:
    """Return a text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|$~#])", r"\\\1", " ".join(text.split()))


def code(value: Any) -> str:
    """Return a value as the command line writes it, in the type of code; it may stand in a table."""
    text = {None: "null", True: "true", False: "false"}.get(value, value) if isinstance(value, bool | None) else value
    return "`" + str(text).replace("|", "\\|") + "`"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def commands() -> str:
    """Return a section for each command: what it does, its usage and its arguments, read from its parser."""
    parts = [table(["command", "what it does"], ([f"[`{n}`](#{n})", plain(text)] for n, text in COMMANDS.items()))]
    for name, text in COMMANDS.items():
        parser = make_parser(name)
        body = [
            f"## {name}",
            f"{plain(text[:1].upper() + text[1:])}.",
            f"```text\n{parser.format_usage().strip()}\n```",
        ]
        body += [define(", ".join(action_names(action)), plain(action_help(action))) for action in list_actions(parser)]
        if parser.epilog and name in MADE_OF_SEVERAL:
            body.append(f"```text\n{parser.epilog}\n```")
        parts.append("\n\n".join(body))
    return "\n\n".join(parts)


def make_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command, as `hpm-video NAME` builds it."""

    def layout(prog: str) -> argparse.HelpFormatter:
        return argparse.HelpFormatter(prog, width=100)

    parser = argparse.ArgumentParser(prog=f"hpm-video {name}", formatter_class=layout, description="")
    find_command(name).add_arguments(parser)
    return parser


def list_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of a command that its help shows, but for the help itself."""
    return [a for a in parser._actions if a.help != argparse.SUPPRESS and a.dest != "help"]


def action_names(action: argparse.Action) -> list[str]:
    """Return how an argument is written."""
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return [f"`{flag}{value}`" for flag in action.option_strings] or [f"`{action.metavar or action.dest.upper()}`"]


def action_help(action: argparse.Action) -> str:
    """Return the help of an argument, with its choices."""
    text = (action.help or "keys and values, as in optim.batch_size=64").replace("%%", "%")
    missing = [str(choice) for choice in action.choices or () if str(choice) not in text]
    return f"{text} (one of {', '.join(map(str, action.choices or ()))})" if missing else text


def define(term: str, text: str) -> str:
    """Return an entry of a definition list."""
    return f"{term}\n: {text}"


def keys(schema: type) -> str:
    """Return a section for each section of a configuration: every key with default, type, bounds, choices and help."""
    parts, section = [], ""
    docs = {f.name: inspect.getdoc(f.type) or "" for f in fields(schema)}
    for name, f in all_fields(schema):
        if name.split(".")[0] != section:
            section = name.split(".")[0]
            parts.append(f"## {section}\n\n{plain(docs[section].split('>>>')[0])}")
        default = default_of(f)
        shown = "required" if default == MISSING else f"default {code(default)}"
        term = f"[`{name}`]{{#{section}-{name.split('.')[1].replace('_', '-')}}} {shown}, {type_name(f)}{bounds(f)}"
        parts.append(define(term, plain(f.metadata["help"]) + choices(f.metadata["choices"])))
    return "\n\n".join(parts)


def bounds(f: Any) -> str:
    """Return the least and the largest value of a key in words."""
    least, most = (n if n is None else f"{n:,}".removesuffix(".0") for n in (f.metadata["least"], f.metadata["most"]))
    if least is None or most is None:
        return f", at least {least}" if least else f", at most {most}" if most else ""
    return f", {least} to {most}"


def choices(found: Any) -> str:
    """Return the values that a key takes, with the help of each if they are a table."""
    if not found:
        return ""
    if isinstance(found, Table):
        return "\n\n" + "\n".join(f"  - `{name}`: {plain(row.help)}" for name, row in found.items())
    return f" (one of {', '.join(f'`{name}`' for name in found)})"


def presets() -> str:
    """Return a section for each preset, with the keys that it sets."""
    parts = []
    for name, found in PRESETS.items():
        use = f"For {plain(PRESET_USES[name])}.\n\n" if name in PRESET_USES else ""
        parts.append(f"## {name}\n\n{use}" + table(["key", "value"], ([code(k), code(v)] for k, v in found.items())))
    return "\n\n".join(parts)


def tables() -> str:
    """Return the tables of choices, each with the key that chooses from it and where each row is implemented."""
    found = {
        "Mask strategies: `mask.mode`": MASK_STRATEGIES,
        "Patterns of random masks: `mask.pattern`": MASK_PATTERNS,
        "Sources of difficulty: `mask.difficulty`": DIFFICULTY_SOURCES,
        "What is decoded: `mask.decode`": DECODE_CHOICES,
        "Targets: `objective.target`": TARGETS,
        "Readers: `data.reader`": READERS,
        "Trackers: `train.trackers`": TRACKERS,
        "Exports: `export --to`": EXPORTERS,
    }
    head = ["name", "", "implemented in"]
    return "\n\n".join(
        f"## {title}\n\n"
        + table(head, ([code(name), plain(row.help), code(row.implementation)] for name, row in rows.items()))
        for title, rows in found.items()
    )


def data_sets() -> str:
    """Return the known data sets with the protocol of each."""
    head = ["set", "frame sampling", "test views", "flip", "read without a recipe", "recipe"]
    return table(head, (data_set_row(name, row) for name, row in DATA_SETS.items()))


def data_set_row(name: str, row: Any) -> list[str]:
    """Return the cells of a data set."""
    folder = RECIPES.get(name, name)
    views = f"{row.protocol.num_clips} clips x {row.protocol.num_crops} crops" if row.protocol else ""
    found = [plain(row.help), row.protocol.sampling if row.protocol else "", views, "no" if row.left_right else "yes"]
    return [*found, plain(row.layout), f"[{folder}](../../datasets/{folder}/README.md)"]


def docstring(module: str) -> Callable[[], str]:
    """Return a part that is the docstring of a module, which is Markdown."""
    return lambda: inspect.getdoc(importlib.import_module(module)) or ""


def run_files() -> str:
    """Return the files of a run folder by the names that the code gives them."""
    from hpm_video.own_folder import MARK as OWNER
    from hpm_video.runs import folder, kind

    rows = {
        kind.CONFIG: "every key of the run; `--config` takes it",
        kind.METRICS: "one JSON object a line: step, loss, learning rate, measurements",
        kind.RESULTS: "the record of the finished run: [results.json](results_json.md)",
        folder.DATA_FILE: "name, number of rows and fingerprints of the data, and accepted changes",
        folder.HELD_OUT_FILE: "the clips that are held out to measure",
        OWNER: "which command owns the folder",
        "tensorboard/": "the log for TensorBoard",
    }
    return table(["file", "content"], ([code(name), text] for name, text in rows.items()))


def manifest_rows() -> str:
    """Return the columns of a manifest, as the class of its rows states them."""
    from hpm_video.catalog.rows import Row

    return f"```python\n{inspect.getsource(Row).strip()}\n```"


def api() -> str:
    """Return the directives that document each public name."""
    groups: dict[str, list[str]] = {"Use and train": [], "Parts for a loop of your own": []}
    for name, home in hpm_video._HOMES.items():
        used = home.startswith(("api.", "errors", "train."))
        groups["Use and train" if used else "Parts for a loop of your own"].append(name)
    parts = []
    for title, names in groups.items():
        parts.append(f"## {title}")
        for name in names:
            kind = "autofunction" if inspect.isfunction(getattr(hpm_video, name)) else "autoclass"
            members = "" if kind == "autofunction" or name == "UserError" else "\n   :members:"
            parts.append(f"### {name}\n\n```{{eval-rst}}\n.. {kind}:: hpm_video.{name}{members}\n```")
    return "\n\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "pretrain_keys": lambda: keys(PretrainConfig),
    "finetune_keys": lambda: keys(FinetuneConfig),
    "presets": presets,
    "tables": tables,
    "data_sets": data_sets,
    "run_files": run_files,
    "checkpoints": docstring("hpm_video.runs.checkpoints"),
    "results_json": docstring("hpm_video.runs.results"),
    "manifest": docstring("hpm_video.data.manifest"),
    "manifest_rows": manifest_rows,
    "shards": docstring("hpm_video.data.shards"),
    "glossary": docstring("hpm_video.types"),
    "api": api,
}


def fill(text: str) -> str:
    """Return a page with each mark replaced by its part. Raises KeyError for an unknown one."""
    return MARK.sub(lambda found: PARTS[found[1]](), text)


def escape_docstring(lines: Iterable[str]) -> Iterator[str]:
    """Yield a docstring as reStructuredText: names between backticks as code, and no other markup but examples."""
    for line in lines:
        if not line.strip().startswith(">>>") and not line.strip().startswith("..."):
            pieces = re.split(r"(`[^`]+`)", line)
            line = "".join(f"`{p}`\\ " if p.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", p) for p in pieces)
        yield line


def setup(app: Any) -> dict[str, Any]:
    """Connect the parts with Sphinx."""

    def read(app: Any, name: str, content: list[str]) -> None:
        content[0] = fill(content[0])

    def read_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        lines[:] = list(escape_docstring(lines))

    def redirect(app: Any, error: Exception | None) -> None:
        if error is None and app.builder.name == "html":
            page = '<!doctype html><meta charset="utf-8"><title>hpm-video</title>'
            page += (
                '<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">hpm-video</a>\n'
            )
            (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")

    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("build-finished", redirect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    sys.stdout.write(PARTS[sys.argv[1]]() + "\n")

"""A page of headings, sentences, tables and pictures, written as one HTML file or as Markdown with its pictures in files."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hpm_video.files import write_bytes, write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
.small { color: #666; font-size: .9rem; } .wide { overflow-x: auto; }
"""


class Heading(NamedTuple):
    """A heading."""

    text: str


class Paragraph(NamedTuple):
    """A paragraph; `small` ones are notes."""

    text: str
    small: bool = False


class Code(NamedTuple):
    """Lines of code."""

    text: str


class Table(NamedTuple):
    """A table; cells are plain text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A PNG below a heading. The HTML holds it; Markdown links to the file that `write_markdown` writes."""

    title: str
    png: bytes

    @property
    def file(self) -> str:
        """Return the name of its file, made from the title."""
        return re.sub(r"\W+", "_", self.title.lower()).strip("_") + ".png"


Block = Heading | Paragraph | Code | Table | Picture


def _block_to_html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Paragraph(text, small):
            kind = ' class="small"' if small else ""
            return f"<p{kind}>{html.escape(text)}</p>"
        case Code(text):
            return f'<pre tabindex="0">{html.escape(text)}</pre>'  # so that a keyboard can scroll it
        case Table(head, rows):
            lines = [_table_line("th", head), *(_table_line("td", row) for row in rows)]
            return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>'
        case Picture(title, png):
            title, encoded = html.escape(title), base64.b64encode(png).decode()
            return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{encoded}">'


def _table_line(tag: str, cells: Iterable[str]) -> str:
    found = [(tag if cell else "td", html.escape(cell)) for cell in cells]  # an empty heading is none
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for tag, cell in found) + "</tr>"


def _block_to_markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text):
            return text
        case Code(text):
            return f"```\n{text}\n```"
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |" for cells in lines)
        case Picture(title):
            return f"## {title}\n\n![{title}]({block.file})"


def write_html(file: Path, title: str, blocks: Iterable[Block]) -> None:
    """Write one HTML file, with the pictures in it."""
    head = f'<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *map(_block_to_html, blocks)])
    write_text(file, f'<!doctype html><html lang="en">{head}<body><main>{body}</main></body></html>\n')


def write_markdown(file: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write a Markdown file, and its pictures into the same folder."""
    for block in blocks:
        if isinstance(block, Picture):
            write_bytes(file.parent / block.file, block.png)
    write_text(file, to_markdown(title, blocks))


def to_markdown(title: str, blocks: Iterable[Block]) -> str:
    """Return the blocks as Markdown, below a title."""
    return "\n\n".join([f"# {title}", *map(_block_to_markdown, blocks)]) + "\n"

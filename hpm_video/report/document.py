"""A page of headings, sentences, tables and pictures: written as self-contained HTML, or as Markdown beside its pictures."""

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

    def html(self) -> str:
        """Return the block as HTML."""
        return f"<h2>{html.escape(self.text)}</h2>"

    def markdown(self) -> str:
        """Return the block as Markdown."""
        return f"## {self.text}"


class Paragraph(NamedTuple):
    """A paragraph; `small` ones are notes."""

    text: str
    small: bool = False

    def html(self) -> str:
        """Return the block as HTML."""
        kind = ' class="small"' if self.small else ""
        return f"<p{kind}>{html.escape(self.text)}</p>"

    def markdown(self) -> str:
        """Return the block as Markdown."""
        return self.text


class Code(NamedTuple):
    """Lines of code."""

    text: str

    def html(self) -> str:
        """Return the block as HTML."""
        return f"<pre>{html.escape(self.text)}</pre>"

    def markdown(self) -> str:
        """Return the block as Markdown."""
        return f"```\n{self.text}\n```"


class Table(NamedTuple):
    """A table; cells are plain text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        """Return the block as HTML."""

        def line(tag: str, cells: Iterable[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        body = line("th", self.head) + "".join(line("td", row) for row in self.rows)
        return f'<div class="wide"><table>{body}</table></div>'

    def markdown(self) -> str:
        """Return the block as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |" for cells in lines)


class Picture(NamedTuple):
    """`png` is in the HTML; Markdown shows the file that `write_markdown` puts beside it."""

    title: str
    png: bytes

    @property
    def file(self) -> str:
        """Return the name of its file, made from the title."""
        return re.sub(r"\W+", "_", self.title.lower()).strip("_") + ".png"

    def html(self) -> str:
        """Return the block as HTML."""
        encoded, title = base64.b64encode(self.png).decode(), html.escape(self.title)
        return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{encoded}">'

    def markdown(self) -> str:
        """Return the block as Markdown."""
        return f"## {self.title}\n\n![{self.title}]({self.file})"


Block = Heading | Paragraph | Code | Table | Picture


def write_html(file: Path, title: str, blocks: Iterable[Block]) -> None:
    """Write one HTML file that holds its pictures."""
    head = f'<head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *(block.html() for block in blocks)])
    write_text(file, f'<!doctype html><html lang="en">{head}<body>{body}</body></html>\n')


def write_markdown(file: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write a Markdown file, and its pictures beside it."""
    for block in blocks:
        if isinstance(block, Picture):
            write_bytes(file.parent / block.file, block.png)
    write_text(file, to_markdown(title, blocks))


def to_markdown(title: str, blocks: Iterable[Block]) -> str:
    """Return the blocks as Markdown, below a title."""
    return "\n\n".join([f"# {title}", *(block.markdown() for block in blocks)]) + "\n"

"""The site of docs/: every page is in the contents, every link leads somewhere, reference pages hold all that the code has."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hpm_video.commands import COMMANDS
from hpm_video.config import FinetuneConfig, PretrainConfig
from hpm_video.config.presets import PRESETS
from hpm_video.config.schema import all_fields

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for pattern in ("docs/**/*.md", "datasets/*/README.md", "benchmarks/reports/*.md", "benchmarks/results/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_reference", DOCS / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents() -> list[Path]:
    """The pages of the contents of docs/index.md."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), re.MULTILINE | re.DOTALL)
    names = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    return [(DOCS / f"{name}.md").resolve() for name in names]


def anchors(text: str) -> set[str]:
    """The names that links to headings of a page use: those of GitHub."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path, fill=lambda text: text) -> Iterator[str]:
    """Yield the links of a page that lead to no file of the checkout, or to no heading of it."""
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page.resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            yield link
        elif heading and heading not in anchors(fill(target.read_text(encoding="utf-8"))):
            yield link


def test_every_page_is_in_the_contents_once() -> None:
    found = contents()
    assert len(found) == len(set(found)) and not [page for page in found if not page.is_file()]
    assert {page.resolve() for page in PAGES} - set(found) == {DOCS / "index.md"}


def test_every_link_leads_somewhere(reference) -> None:
    faults = {str(page.relative_to(ROOT)): list(broken_links(page, reference.fill)) for page in PAGES}
    assert not {page: links for page, links in faults.items() if links}


def test_the_check_of_links_sees_faults(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "b.md").write_text("# A title: `x`\n")
    page = tmp_path / "a.md"
    page.write_text("[a](b.md) [b](b.md#a-title-x) [c](c.md) [d](b.md#no) [e](https://x.y)\n```\n[f](no.md)\n```\n")
    assert list(broken_links(page)) == ["c.md", "b.md#no"]


def test_a_page_has_one_title() -> None:
    for page in sorted(DOCS.glob("**/*.md")):
        text = FENCED.sub("", page.read_text(encoding="utf-8"))
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, page


def test_reference_pages_hold_what_the_code_has(reference) -> None:
    marks = [found for page in DOCS.glob("reference/*.md") for found in reference.MARK.findall(page.read_text())]
    assert sorted(marks) == sorted(reference.PARTS)
    assert set(re.findall(r"^## (.+)$", reference.commands(), re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"^## (.+)$", reference.presets(), re.MULTILINE)) == set(PRESETS)
    for schema in (PretrainConfig, FinetuneConfig):
        shown = re.findall(r"^\[`([\w.]+)`\]", reference.keys(schema), re.MULTILINE)
        assert shown == [name for name, _ in all_fields(schema)]
    for name in COMMANDS:
        flags = [
            flag for action in reference.list_actions(reference.make_parser(name)) for flag in action.option_strings
        ]
        section = reference.commands().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert all(f"`{flag}" in section for flag in flags)
    assert not any("<!--" in part() for part in reference.PARTS.values())


def test_texts_are_shown_as_they_are(reference) -> None:
    assert reference.plain("a ** b_c [d] <e> | #f") == r"a \*\* b\_c \[d\] \<e\> \| \#f"
    assert reference.code("a|b") == r"`a\|b`" and reference.code(None) == "`null`" and reference.code(True) == "`true`"
    assert list(reference.escape_docstring(["`A`s of *x", ">>> a * b"])) == [r"``A``\ s of \*x", ">>> a * b"]


def check_accessible(page: str) -> None:
    """What axe-core found in pages of the theme: headings without a level, boxes that no key scrolls, empty heads, no names."""
    assert not re.search(r'role="heading"(?! aria-level)|<pre>|<th[^>]*><p></p></th>', page)
    names = re.findall(r'<aside(?: aria-label="(\w+)")?', page)
    assert all(names) and len(names) == len(set(names))


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_needs_no_network(tmp_path) -> None:
    pytest.importorskip("sphinx")
    words = [
        "-W",
        "--keep-going",
        "-q",
        "-c",
        str(DOCS),
        "-d",
        str(tmp_path / "trees"),
        str(ROOT),
        str(tmp_path / "out"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "out").rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        )
        assert not [link for link in loaded if re.match(r"(https?:)?//", link)], page
        check_accessible(page.read_text(encoding="utf-8"))

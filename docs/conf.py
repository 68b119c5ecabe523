"""Settings of the site: `make docs` writes it to build/docs. Needs `pip install 'hpm-video[docs]'`.

The source folder is the whole checkout, so that a link between two files of the repository works on the site and in a viewer
of the repository alike. Nothing is loaded from the network.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from hpm_video import __version__  # noqa: E402  (after the path)

project, author, release = "hpm-video", "the authors of hpm-video", __version__
copyright = f"{author}, Apache-2.0"
highlight_language = "bash"  # of blocks that name none: mostly commands
suppress_warnings = ["misc.highlighting_failure"]  # the others are lists of files
extensions = ["myst_nb", "sphinx.ext.autodoc", "reference"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "datasets/*/README.md",
    "benchmarks/results/*.md",
    "benchmarks/reports/*.md",
    "tests/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("HPM_DOCS_NOTEBOOKS", "off")  # force: run the notebooks while the site is built
nb_execution_timeout = 1800
nb_execution_raise_on_error = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"hpm-video {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False  # the search shows the pages themselves
html_theme_options = {"navigation_with_keys": True}


ACCESSIBLE = (  # (in the theme's pages, in ours): levels of headings, names of landmarks, boxes that a keyboard can scroll, empty heads of tables
    (r'role="heading"(?! aria-level)', 'role="heading" aria-level="2"'),
    (r'<aside class="(sidebar|toc)-drawer', r'<aside aria-label="\1" class="\1-drawer'),
    (r"<pre>", '<pre tabindex="0">'),
    (r'<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    (r'<th class="head[^"]*"><p></p></th>', "<td></td>"),
)


def make_accessible(app: Any, error: Exception | None) -> None:
    """Mend in the written pages what axe-core finds in those of the theme."""
    for page in Path(app.outdir).rglob("*.html") if error is None else ():
        text = page.read_text(encoding="utf-8")
        for theirs, ours in ACCESSIBLE:
            text = re.sub(theirs, ours, text)
        page.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Register the hook."""
    app.connect("build-finished", make_accessible)

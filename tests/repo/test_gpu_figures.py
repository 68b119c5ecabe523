"""No document has a figure of a GPU that was not measured: it stands on a page that is made of a JSON file in
benchmarks/results, or its passage says that it is published, predicted, computed or an aim."""

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CARD = re.compile(r"\b(?:[AHVB][128]00|GPUs?|CUDA)\b|\b(?:GPU|A100|H100|H200)-hours")
UNIT = re.compile(r"\d[\d,.]*\s*(?:%|TFLOP/s|TB/s|GB/s)|clips/s|clips per second|clips a second|-hours|\bMFU\b")
FIGURE = re.compile(r"(?<![\w.])\d[\d,.]*(?![\w.])")
MARKED = re.compile(
    r"published|predicted|computed|counted|assumed|\baims?\b|not measured|no GPU|on a CPU|not known|to reach",
    re.IGNORECASE,
)


def passages(text: str) -> Iterator[str]:
    """Each sentence or table, below its heading."""
    heading = ""
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("#"):
            heading, _, block = block.partition("\n")
        parts = (
            [block] if block.lstrip().startswith("|") else re.split(r"(?<=[.!?])\s+(?=[A-Z`*\[(])|\n(?=[-*] )", block)
        )
        yield from (f"{heading}\n{part}" for part in parts if part.strip())


def unfounded(text: str) -> list[str]:
    """Return the passages with a figure of a GPU that is not marked as something else than measured."""
    return [
        passage
        for passage in passages(text)
        if CARD.search(passage) and UNIT.search(passage) and FIGURE.search(passage) and not MARKED.search(passage)
    ]


def documents() -> list[Path]:
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
        *ROOT.glob("datasets/**/*.md"),
    ]
    return [file for file in sorted(found) if not (file.parent == RESULTS and file.name.startswith("gpu_"))]


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_figures_of_a_gpu_are_measured_or_marked(file) -> None:
    links = re.compile(r"results/(gpu_\w+)\.md")
    for passage in unfounded(file.read_text(encoding="utf-8")):
        named = links.findall(passage)  # a passage that quotes a page: its figures stand there
        kept = "".join((RESULTS / f"{name}.md").read_text(encoding="utf-8") for name in named)
        numbers = [number.strip(".,") for number in FIGURE.findall(passage)]
        assert named and all(number in kept for number in numbers), passage


def test_pages_of_gpus_are_made_of_their_figures(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    render = runpy.run_path(str(ROOT / "benchmarks" / "gpu" / "pages.py"))["render"]
    for file in sorted(RESULTS.glob("gpu_*.md")):
        content = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        assert file.read_text(encoding="utf-8") == render(content), "python benchmarks/gpu/report.py DIR"


def test_this_test_sees_what_it_looks_for() -> None:
    assert unfounded("# Speed\n\nOn one H100 hpm reaches 1,200 clips/s.")
    assert unfounded("## Speed of one GPU\n\n| preset | clips/s |\n| --- | --- |\n| hpm | 1,200 |")
    assert unfounded("It was published. On a GPU it reaches 1,200 clips/s.")
    assert unfounded("SSv2 takes 38 GPU-hours.") and unfounded("ViT-B: an MFU of 47 % of an A100's.")
    for text in (
        "An H100 reaches 1,200 clips/s (predicted).",
        "Published: 1,818 A100-hours.",
        "2.3 clips/s, two cores.",
    ):
        assert not unfounded(text)

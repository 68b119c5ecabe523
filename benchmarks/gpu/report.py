"""Write the page of a run on a GPU: benchmarks/results/gpu_CARD_YYYYMM.md and, beside it, all its figures as .json.

    python benchmarks/gpu/report.py DIR [--out FILE]

DIR is the folder that `benchmarks/gpu/run.py --out DIR` wrote. Results of `--device cpu` get a page only with --out.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent
sys.path[:0] = [str(HOME), str(HOME.parent), str(HOME.parents[1])]

from ceilings import CLIPS, PUBLISHED, SIZES, count, predict  # noqa: E402
from pages import render  # noqa: E402
from peers import PRESET_OF  # noqa: E402

from hpm_video.errors import UserError  # noqa: E402
from hpm_video.files import write_json, write_text  # noqa: E402
from hpm_video.reading import read_json  # noqa: E402
from hpm_video.report.recipe_costs import GPU_FORMAT  # noqa: E402

STAGES = ("truth", "speed", "profile", "feed", "arena")
RESULTS = HOME.parent / "results"


def load(folder: Path) -> dict[str, Any]:
    """Return {stage: content of its file}. Raise UserError if the folder holds no such file, or files of another program."""
    found = {}
    for stage in STAGES:
        file = folder / f"{stage}.json"
        if file.is_file():
            found[stage] = read_json(file, dict, "what benchmarks/gpu/run.py writes")
            if found[stage].get("stage") != stage or "results" not in found[stage]:
                raise UserError(f"{file} is not of this script; expected a file that benchmarks/gpu/run.py writes")
    if not found:
        raise UserError(f"{folder} holds no results; expected a folder that benchmarks/gpu/run.py --out wrote")
    return found


def name_page(stages: dict[str, Any]) -> str:
    """Return a name such as gpu_h100_202611, from card and date. Raise UserError if the results are of a CPU."""
    cards = {s["machine"].get("card") for s in stages.values() if s["device"] == "cuda"} - {None}
    if any(s["device"] != "cuda" for s in stages.values()) or not cards:
        raise UserError(
            "these results are not of a GPU, so they get no page under a GPU's name; expected results of --device cuda. "
            "Try --out FILE for a page of your own"
        )
    if len(cards) > 1:
        raise UserError(f"the stages ran on several cards ({', '.join(sorted(cards))}); expected those of one run")
    card = cards.pop()
    known = re.search(r"\b([ABHLV]\d{1,3}|RTX \d+)\b", card)
    short = re.sub(r"\W+", "_", (known[1] if known else card).lower()).strip("_")
    return f"gpu_{short}_{min(s['date'] for s in stages.values())[:7].replace('-', '')}"


def predict_all(stages: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction for each measured size and step, by 'SIZE NAME'. Each takes seconds."""
    rows = stages.get("speed", {}).get("results", {}).get("measured", [])
    pairs = {(row["size"], row["name"]) for row in rows if row["clips_per_s"] and row["size"] in SIZES}
    found = {pair: predict(count(*pair)) for pair in {(size, PRESET_OF[name]) for size, name in pairs}}
    return {f"{size} {name}": found[size, PRESET_OF[name]] for size, name in sorted(pairs)}


def combine(stages: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the page's JSON file."""
    about = {"clips": CLIPS, "flops": PUBLISHED.flops, "bytes": PUBLISHED.bytes}
    return {"format": GPU_FORMAT, "stages": stages, "predicted": predict_all(stages), "predicted_with": about}


def check_free(page: Path) -> None:
    """Raise UserError if the page or its figures would replace files that this script did not write."""
    figures = page.with_suffix(".json")
    if not page.exists() and not figures.exists():
        return
    if not figures.is_file() or read_json(figures, dict, "the figures of a page").get("format") != GPU_FORMAT:
        raise UserError(f"{page} or {figures.name} exists and was not written by this script. Try another --out FILE")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page, instead of one in benchmarks/results")
    given = parser.parse_args(arguments)
    try:
        stages = load(given.folder)
        page = RESULTS / f"{name_page(stages)}.md" if given.out is None else given.out
        check_free(page)
        content = combine(stages)
        write_json(page.with_suffix(".json"), content)
        write_text(page, render(read_json(page.with_suffix(".json"), dict, "what was just written")))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{page}\n{page.with_suffix('.json')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

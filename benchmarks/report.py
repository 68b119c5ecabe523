"""Compare finished runs: `python benchmarks/report.py RUNS... --out DIR`, the same as `hpm-video report`.

`python benchmarks/report.py --recipes` computes the cost of the recipes from their configurations and writes it to benchmarks/reports/.
"""

import sys
from pathlib import Path

from hpm_video.cli import main
from hpm_video.report.recipe_costs import write_recipes

HOME = Path(__file__).parent.parent

if __name__ == "__main__":
    if sys.argv[1:] == ["--recipes"]:
        write_recipes(HOME, HOME / "benchmarks" / "reports")
        sys.exit(0)
    sys.exit(main(["report", *sys.argv[1:]]))

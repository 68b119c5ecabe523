"""Run the study of masks: `benchmarks/studies/arena.py --minutes M --out FOLDER`. Keep its JSON files."""

import json
import subprocess
import sys
import time
from pathlib import Path

from context import Context

from hpm_video.files import temporary_folder

STUDY = Path(__file__).resolve().parents[1] / "studies" / "arena.py"
MOST_BYTES, RESERVE_S = 2_000_000, 10  # size of a kept file; time before the stage is killed


def main(context: Context) -> str | None:
    with temporary_folder() as out:
        minutes = 1 if context.tiny else max(0.1, (context.left() - RESERVE_S) / 60)
        words = [sys.executable, str(STUDY), f"--minutes={minutes:.2f}", f"--out={out / 'arena'}"]
        words += ["--tiny", "--studies=noise", "--seeds=1"] if context.tiny else []
        process = subprocess.Popen(words)
        while process.poll() is None:
            time.sleep(1)
            keep(context, out)
        keep(context, out)
    return f"the study ended with exit code {process.returncode}" if process.returncode else None


def keep(context: Context, out: Path) -> None:
    """Add JSON files that are new or have changed to the results."""
    found = {}
    for file in sorted(out.rglob("*.json")):
        if not file.name.startswith(".") and file.stat().st_size <= MOST_BYTES:
            found[file.relative_to(out).as_posix()] = json.loads(file.read_text(encoding="utf-8"))
    if found != context.results.get("files", {}):
        context.put(files=found)

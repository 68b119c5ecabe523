"""Measure the cost of large data sets before the first clip: CPU seconds and memory of each process of a node.

    python benchmarks/bench_rows.py FOLDER [csv=10000000] [parquet=100000000] [folder=1000000] [--processes 3]

Each case is first written to FOLDER, unless it exists: a manifest with a csv or Parquet table of that many rows, or a folder
of that many empty files. Then processes open it one after the other, as the ranks of a node and a resumed run do: open, hold
out 256 rows, describe the data (fingerprint), draw the order of an epoch. The first process fills a new cache, which is
deleted after the last. CPU: user and system, all threads. Memory: peaks, less the memory after the imports. Anonymous memory
is the process's own. Mapped memory is pages of files, which the processes of a node share and the system can drop. The Parquet
case takes 6 GB of disk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hpm_video.commands.output import say
from hpm_video.files import replacing, write_csv, write_json

BLOCK = 1_000_000
HEADER = {"format": "hpm-video manifest 1", "name": "rows", "root": ".", "classes": ["a", "b", "c"]}
FILES_PER_FOLDER = 1000


def path_of(row: int) -> str:
    """Return the path of a row: a folder of 1000 clips each."""
    return f"videos/{row // FILES_PER_FOLDER:06d}/clip_{row:09d}.mp4"


def write_case(folder: Path, kind: str, num: int) -> None:
    """Write the rows or files of a case."""
    if kind == "folder":
        for row in range(num):
            file = folder / path_of(row)
            if row % FILES_PER_FOLDER == 0:
                file.parent.mkdir(parents=True)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY))
        return
    folder.mkdir(parents=True)
    if kind == "csv":
        columns = "path,label,frames,fps,width,height,group,first_frame".split(",")
        write_csv(folder / "train.csv", columns, ([path_of(r), r % 3, 250, 25.0, 320, 240, "", 0] for r in range(num)))
    else:
        _write_parquet(folder / "train.parquet", num)
    header = HEADER | {"splits": {"train": {"file": f"train.{kind}", "rows": num}}}
    write_json(folder / "manifest.json", header)


def _write_parquet(file: Path, num: int) -> None:
    """Write paths and labels; the other columns are unknown, as recipes that open no file leave them."""
    import pyarrow as pa
    from pyarrow import parquet

    from hpm_video.data.manifest_table import SCHEMA

    with replacing(file) as draft, parquet.ParquetWriter(draft, SCHEMA, compression="zstd") as writer:
        for start in range(0, num, BLOCK):
            rows = range(start, min(start + BLOCK, num))
            known = {"path": [path_of(row) for row in rows], "label": [row % 3 for row in rows]}
            known |= {"group": [""] * len(rows), "first_frame": [0] * len(rows)}
            writer.write_table(
                pa.table({f.name: pa.array(known.get(f.name, [None] * len(rows)), f.type) for f in SCHEMA})
            )


def measure(folder: str) -> None:
    """Open a data set in this process and print the CPU seconds of each stage, as JSON."""
    from hpm_video.config import DataConfig
    from hpm_video.data.source import open_source
    from hpm_video.data.splits import hold_out
    from hpm_video.runs.results import describe_data

    found: dict[str, float] = {}
    peak, began = Peak(), _cpu()

    def note(name: str) -> None:
        nonlocal began
        found[name], began = round(_cpu() - began, 2), _cpu()

    source = open_source(DataConfig(root=folder), "train")
    note("open_s")
    train, _ = hold_out(source, 256, 0)
    note("hold_out_s")
    describe_data(train)
    note("describe_s")
    train.kind  # noqa: B018
    note("kind_s")
    order = train.order
    for place in range(min(1000, len(train))):
        train.item(order.row(0, 0, place))
    note("order_s")
    found |= peak.stop()
    sys.stdout.write(json.dumps(found) + "\n")


class Peak(threading.Thread):
    """Record the peak memory of this process, in MiB above that at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.ended = _memory(), threading.Event()
        self.most = self.before
        self.start()

    def run(self) -> None:
        """Read the memory every 10 ms."""
        while not self.ended.wait(0.01):
            now = _memory()
            self.most = {name: max(most, now[name]) for name, most in self.most.items()}

    def stop(self) -> dict[str, int]:
        """Return the peaks: anonymous_mib, mapped_mib."""
        self.ended.set()
        self.join()
        return {name: most - self.before[name] for name, most in self.most.items()}


def _memory() -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kinds = {"anonymous_mib": "RssAnon", "mapped_mib": "RssFile"}
    return {name: int(status[kind].split()[0]) // 1024 for name, kind in kinds.items()}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Write the missing cases, open each in several processes, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=["csv=10000000", "parquet=100000000", "folder=1000000"])
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="open FOLDER itself, in this process")
    given = parser.parse_args()
    if given.measure:
        return measure(str(given.folder))
    for case in given.cases:
        kind, _, num = case.partition("=")
        folder = given.folder / case
        if not folder.is_dir():
            write_case(folder, kind, int(num))
            time.sleep(3)  # the listing of a folder is cached only if it has not just changed
        with tempfile.TemporaryDirectory(dir=given.folder) as cache:
            for number in range(given.processes):
                command = [sys.executable, __file__, str(folder), "--measure"]
                variables = os.environ | {"HPM_VIDEO_CACHE": cache}
                done = subprocess.run(command, env=variables, capture_output=True, text=True)
                output = done.stdout.strip() or f"exit status {done.returncode}: {done.stderr.strip()[-300:]}"
                say(f"{case} process {number}: {output}")


if __name__ == "__main__":
    main()

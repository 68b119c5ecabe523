"""Measure what large sets cost before the first clip: CPU seconds and memory of each process of a node.

    python benchmarks/bench_rows.py FOLDER [csv=10000000] [parquet=100000000] [folder=1000000] [--processes 3]

Each case is written below FOLDER first, if it is not there: a manifest with a csv or Parquet table of so many rows, or a
folder of so many empty files. Then processes open it one after the other, as the ranks of a node and a resume do: open, hold
out 256 rows, describe the data (fingerprint), draw the order of an epoch. The first one fills the cache, which is emptied
before. CPU: user and system, all threads. Anonymous: the peak of memory of the process's own. Mapped: pages of files at the
end, which the processes of a node share. A Parquet set of 100M rows takes 8 GB of disk with its cache.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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
        with (folder / "train.csv").open("w", encoding="utf-8") as stream:
            stream.write("path,label,frames,fps,width,height,group,first_frame\n")
            for row in range(num):
                stream.write(f"{path_of(row)},{row % 3},250,25.0,320,240,,0\n")
    else:
        _write_parquet(folder / "train.parquet", num)
    header = HEADER | {"splits": {"train": {"file": f"train.{kind}", "rows": num}}}
    (folder / "manifest.json").write_text(json.dumps(header))


def _write_parquet(file: Path, num: int) -> None:
    """Write paths and labels; the other columns are unknown, as recipes that open no file leave them."""
    import pyarrow as pa
    from pyarrow import parquet

    from hpm_video.data.manifest_table import SCHEMA

    with parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for start in range(0, num, BLOCK):
            rows = range(start, min(start + BLOCK, num))
            known = {"path": [path_of(row) for row in rows], "label": [row % 3 for row in rows]}
            known |= {"group": [""] * len(rows), "first_frame": [0] * len(rows)}
            writer.write_table(
                pa.table({f.name: pa.array(known.get(f.name, [None] * len(rows)), f.type) for f in SCHEMA})
            )


def measure(folder: str) -> None:
    """Open a set in this process and print what each stage took, as JSON."""
    from hpm_video.config import DataConfig
    from hpm_video.data.source import open_source
    from hpm_video.data.splits import hold_out
    from hpm_video.runs.results import describe_data

    found: dict[str, float] = {}
    peak = Peak()
    for name, seconds in _stages(folder, DataConfig, open_source, hold_out, describe_data):
        found[name] = round(seconds, 2)
    found |= {"anonymous_mib": peak.stop(), "mapped_mib": _status("RssFile") - peak.mapped}
    sys.stdout.write(json.dumps(found) + "\n")


def _stages(folder, make_config, open_source, hold_out, describe_data) -> Iterator[tuple[str, float]]:  # noqa: ANN001
    began = _cpu()
    source = open_source(make_config(root=folder), "train")
    yield "open_s", _cpu() - began
    began = _cpu()
    train, _ = hold_out(source, 256, 0)
    yield "hold_out_s", _cpu() - began
    began = _cpu()
    describe_data(train)
    yield "describe_s", _cpu() - began
    began = _cpu()
    train.kind  # noqa: B018
    yield "kind_s", _cpu() - began
    began = _cpu()
    order = train.order
    for place in range(1000):
        train.item(order.row(0, 0, place))
    yield "order_s", _cpu() - began


class Peak(threading.Thread):
    """Note the most anonymous memory of this process, in MiB above that at the start."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.mapped, self.most, self.ended = _status("RssAnon"), _status("RssFile"), 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look every 10 ms."""
        while not self.ended.wait(0.01):
            self.most = max(self.most, _status("RssAnon"))

    def stop(self) -> int:
        """Return the peak."""
        self.ended.set()
        self.join()
        return max(self.most, _status("RssAnon")) - self.before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) // 1024
    return 0


def main() -> None:
    """Write the cases that are not there, open each in several processes, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=["csv=10000000", "parquet=100000000", "folder=1000000"])
    parser.add_argument("--processes", type=int, default=3)
    given = parser.parse_args()
    for case in given.cases:
        kind, _, num = case.partition("=")
        folder = given.folder / case
        if not folder.is_dir():
            write_case(folder, kind, int(num))
            time.sleep(3)  # a listing is kept only of folders that are still for a moment
        cache = given.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        for number in range(given.processes):
            command = [sys.executable, __file__, "--measure", str(folder)]
            done = subprocess.run(
                command, env=os.environ | {"HPM_VIDEO_CACHE": str(cache)}, capture_output=True, text=True
            )
            told = done.stdout.strip() or f"exit status {done.returncode}: {done.stderr.strip()[-300:]}"
            sys.stdout.write(f"{case} process {number}: {told}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main()

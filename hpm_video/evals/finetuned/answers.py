"""Classify the videos of a test and keep the answers: a file for each process, a line for each video."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hpm_video.cores import count_workers
from hpm_video.data.bad_samples import BadSamples
from hpm_video.data.loader import ClipStream, StepSampler
from hpm_video.data.orders import ListedOrder
from hpm_video.evals.finetuned.views import ViewClassifier, ViewDataset
from hpm_video.files import disk_faults
from hpm_video.progress import Progress
from hpm_video.reading import read_rows
from hpm_video.types import Failure

log = logging.getLogger("hpm_video")

Record = dict[str, Any]  # row, path, and either label and scores or the reason why the video is unreadable


class Ranks:
    """The processes of a test, or this process alone. They wait on the host for up to 7 days: one can end long after
    another."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self.group: Any = None
        if dist.is_initialized():
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            self.group = dist.new_group(backend="gloo", timeout=timedelta(days=7))

    def wait(self) -> None:
        """Wait until every process calls this."""
        if self.group is not None:
            dist.barrier(group=self.group)


def answer_share(
    folder: Path, dataset: ViewDataset, classifier: ViewClassifier, max_bad_share: float, ranks: Ranks
) -> None:
    """Append the missing answers of this rank's rows to rank-K.jsonl. Unreadable files are tried again."""
    source, own_rows = dataset.source, range(ranks.rank, len(dataset), ranks.size)
    answered = {row for row, record in read_records(folder).items() if "scores" in record}
    rows = [row for row in own_rows if row not in answered]
    clips, crops = dataset.num_clips, dataset.num_crops
    log.info("test on %d videos (%s), %d clips x %d crops of each", len(source), source.source, clips, crops)
    if answered:
        log.info("%d of them already have an answer", len(answered))
    bad = BadSamples(max_bad_share, "left out of the test")
    progress = Progress("test", "videos", len(rows), bar=False)
    file = folder / f"rank-{ranks.rank}.jsonl"
    with disk_faults(file), file.open("a", encoding="utf-8") as stream:
        if stream.tell():  # ends a line that may be half written; it is skipped when read
            stream.write("\n")
        for number, record in enumerate(answer_rows(rows, dataset, classifier), 1):
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            if "reason" in record:
                bad.add([Failure(record["path"], record["reason"])])
                bad.check(bad.num_bad, len(own_rows) - len(rows) + number - bad.num_bad)
            progress.show(number)
        os.fsync(stream.fileno())


def answer_rows(rows: Sequence[int], dataset: ViewDataset, classifier: ViewClassifier) -> Iterator[Record]:
    """Yield the records in the order of `rows`. Workers read the videos; a worker is replaced if a file hangs or
    crashes it."""
    if not rows:
        return
    views = dataset.num_views
    sampler = StepSampler(ListedOrder(rows), 0, views, views, 0, 1, range(len(rows)), repeats=views)
    stream = ClipStream(dataset, sampler, min(count_workers(dataset.config.num_workers), len(rows)))
    try:
        for batch in stream:
            record: Record = {"row": int(batch.sample[0]), "path": dataset.source.name(int(batch.sample[0]))}
            if batch.failures:
                yield record | {"reason": batch.failures[0].reason}
                continue
            scores = classifier(batch.clip).tolist()
            # nine digits restore each fp32 number exactly
            yield record | {"label": int(batch.label[0]), "scores": [float(f"{value:.9g}") for value in scores]}
    finally:
        stream.stop()


def read_records(folder: Path) -> dict[int, Record]:
    """Return the records of all processes of this test by row. Half-written lines are skipped."""
    found: dict[int, Record] = {}
    for file in sorted(folder.glob("rank-*.jsonl")):
        for record in read_rows(file, "the answers of a test, as a process of it writes them"):
            row = record.get("row")
            if isinstance(row, int) and ("scores" in record or row not in found):
                found[row] = record
    return found

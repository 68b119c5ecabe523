"""Test a fine-tuned run: classify each video of a labelled split from several views, on any number of processes.

```
RUN/tests/SPLIT-CLIPSxCROPS-KEY/rank-K.jsonl      one line for each video that process K has answered
                                results.json      scores, settings, unreadable files
                                per_class.csv, confusion.png
```
KEY is a hash of weights, samples and settings. Answers are kept: a test resumes after a stop, with any number of processes.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpm_video.config import FinetuneConfig
from hpm_video.config.data_sets import protocol_entry
from hpm_video.data.bad_samples import BadSamples
from hpm_video.data.source import Source
from hpm_video.data.splits import open_tested
from hpm_video.errors import UserError
from hpm_video.evals.finetuned.answers import Ranks, answer_share, read_records
from hpm_video.evals.finetuned.charts import draw_confusion
from hpm_video.evals.finetuned.views import ViewClassifier, ViewDataset
from hpm_video.evals.metrics import Answers, class_rows, score_answers
from hpm_video.evals.summary import describe_doubt, format_share
from hpm_video.files import write_bytes, write_csv, write_json
from hpm_video.own_folder import all_names, own_folder
from hpm_video.runs.machine import describe_machine
from hpm_video.runs.settings import check_overrides, load_classes, read_config
from hpm_video.train.engines.start import prepare_process
from hpm_video.types import Failure
from hpm_video.weights.load import load_classifier

log = logging.getLogger("hpm_video")
WRITTEN = ("results.json", "per_class.csv", "confusion.png")


def evaluate_run(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Test a fine-tuned run in all started processes, and write the files of RUN/tests. Return the content of results.json
    on rank 0, {} on other ranks.

    Rank r of n takes the videos whose row is r modulo n. Unreadable videos are left out, named and counted;
    `top1_unreadable_wrong` counts them as wrong. Raises UserError for faults that the user can fix, and if more than
    data.max_bad_share of the videos are unreadable.
    """
    check_overrides(overrides, "data.*", "test.*", "engine.*")
    if any(o.startswith("data.num_held_out=") for o in overrides):
        raise UserError("data.num_held_out: expected the value of training, so that no training sample is tested")
    load_classes(run)  # raises if this is not a fine-tuning run
    overrides = ["engine.kind=auto", *overrides]  # training and test can have different numbers of processes
    device = prepare_process(read_config(run, overrides))
    ranks = Ranks()
    if ranks.rank:
        ranks.wait()  # rank 0 may have to write classifier.safetensors
    config, model, classes = load_classifier(run, overrides)
    if not ranks.rank:
        ranks.wait()
    split, source = open_tested(config.data, config.test.split, config.train.seed)
    check_same_classes(source, classes, run)
    dataset = ViewDataset(source, config.data, config.test)
    classifier = ViewClassifier(model, config, device)
    key = digest_test(config, dataset, classifier.bf16, run / "classifier.safetensors")
    folder = run / "tests" / f"{split}-{dataset.num_clips}x{dataset.num_crops}-{key[:8]}"
    if ranks.rank:
        ranks.wait()  # rank 0 makes the folder
        answer_share(folder, dataset, classifier, config.data.max_bad_share, ranks)
        ranks.wait()
        ranks.wait()  # rank 0 writes the results
        return {}
    with own_folder(folder, "hpm-video test", find_older_test) as own:
        own.reserve([*WRITTEN, *(f"rank-{rank}.jsonl" for rank in range(ranks.size))])
        ranks.wait()
        answer_share(folder, dataset, classifier, config.data.max_bad_share, ranks)
        ranks.wait()
        about = {
            "split": split,
            "source": source.source,
            "sampling": dataset.sampling,
            "key": key,
            "rule": config.data.rule,
            "root": config.data.root,
            "set_name": source.set_name,
            **protocol_entry(source.protocol),
            "num_clips": dataset.num_clips,
            "num_crops": dataset.num_crops,
            "average": config.test.average,
        }
        results = write_results(folder, source, config, about)
    ranks.wait()
    return results


def find_older_test(folder: Path) -> list[str] | None:
    """Return the files of a test written before marks existed; None if the folder is anything else."""
    return all_names(folder, *WRITTEN, "rank-*.jsonl")


def check_same_classes(source: Source, classes: list[str], run: Path) -> None:
    """Raise UserError if the classes of a set are not those of the run, in the same order."""
    if source.classes == classes:
        return
    odd = sorted(set(source.classes) ^ set(classes))
    how = f"not in both: {', '.join(odd[:3])}" if odd else "the same names in another order"
    raise UserError(
        f"{source.source} has {len(source.classes)} classes, {run / 'classes.json'} {len(classes)}; {how}: expected the "
        "classes of the training, in the same order"
    )


def digest_test(config: FinetuneConfig, dataset: ViewDataset, bf16: bool, weights: Path) -> str:
    """Return a hash of everything that the answers depend on; paths and batch size are not part of it."""
    source, data = dataset.source, dataclasses.asdict(config.data)
    settings = {n: data[n] for n in ("num_frames", "frame_size_px", "stride", "fps", "mean", "std")}
    model = {n: value for n, value in dataclasses.asdict(config.model).items() if n != "head_dropout"}  # training only
    settings |= {"sampling": dataset.sampling, "model": model, "average": config.test.average}
    settings |= {} if config.data.rule == "even" else {"rule": config.data.rule}
    settings |= {"clips": dataset.num_clips, "crops": dataset.num_crops, "bf16": bf16}
    settings |= {"set": source.set_name, "names": [source.name(row) for row in range(len(source))]}
    settings |= source.facts()
    with weights.open("rb") as stream:
        settings["weights"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def write_results(folder: Path, source: Source, config: FinetuneConfig, about: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a test from all answers; return the content of results.json. Raises UserError if answers are
    missing, or if too few files are readable."""
    records = read_records(folder)
    missing = [row for row in range(len(source)) if row not in records]
    if missing:
        raise UserError(
            f"{folder} lacks the answers to {len(missing)} of {len(source)} videos; expected a run folder on a disk that all "
            "processes share"
        )
    ordered = [records[row] for row in range(len(source))]
    good, bad = [r for r in ordered if "scores" in r], [r for r in ordered if "scores" not in r]
    failures = [Failure(record["path"], record["reason"]) for record in bad]
    BadSamples(config.data.max_bad_share, "left out of the test", failures).check(len(bad), len(good))
    if not good:
        raise UserError(
            f"none of the {len(bad)} videos of {source.source} could be read: {failures[0].path}: {failures[0].reason}"
        )
    answers = Answers(
        scores=np.array([record["scores"] for record in good], dtype=np.float32),
        labels=np.array([record["label"] for record in good]),
    )
    confusion, scores = answers.confusion(), score_answers(answers)
    scores |= {
        "num_videos": len(good),
        "num_unreadable": len(bad),
        "num_classes": answers.num_classes,
        "num_classes_present": int((confusion.sum(1) > 0).sum()),
        "top1_unreadable_wrong": scores["top1"] * len(good) / len(ordered),
    }
    results = {
        "scores": scores,
        "test": about,
        "folder": str(folder),
        "machine": describe_machine(),
        "unreadable": {record["path"]: record["reason"] for record in bad},
    }
    columns = ["class", "name", "videos", "accuracy", "most_often_taken_for", "times"]
    write_csv(folder / "per_class.csv", columns, class_rows(confusion, source.classes))
    write_bytes(folder / "confusion.png", draw_confusion(confusion, source.classes))
    write_json(folder / "results.json", results)
    if describe_doubt(scores):
        log.warning(
            "top-1 may not be above chance (%.3f, the most frequent class). Check that labels match class names, that the "
            "training loss fell, and the keys data.mean, data.std and test.*",
            scores["chance"],
        )
    return results


def describe_results(results: dict[str, Any]) -> str:
    """Return the results of `evaluate_run` on rank 0 as lines of text."""
    scores, about = results["scores"], results["test"]
    views = f"{about['num_clips']} clips x {about['num_crops']} crops, {about['average']} averaged"
    lines = [f"{scores['num_videos']:,} videos of the {about['split']} split, {views}"]
    for name, key in (("top-1", "top1"), ("top-5", "top5"), ("mean class", "mean_class_accuracy")):
        if key in scores:
            lines.append(f"{name}: {format_share(scores[key], scores[f'{key}_interval'])}")
    lines.append(f"chance: {scores['chance']:.3f}, the most frequent class")
    if describe_doubt(scores):
        lines.append(f"top-1: {describe_doubt(scores)}")
    if scores["num_unreadable"]:
        text = f"{scores['num_unreadable']:,} videos could not be read and are left out; if counted as wrong: top-1 "
        lines.append(f"{text}{scores['top1_unreadable_wrong']:.3f}")
    if scores["num_classes_present"] < scores["num_classes"]:
        counts = f"{scores['num_classes_present']} of {scores['num_classes']}"
        lines.append(f"mean class: over the {counts} classes that have videos")
    return "\n".join([*lines, f"wrote {results['folder']}: results.json, per_class.csv, confusion.png"]) + "\n"

"""Write a comparison of finished runs as Markdown and as one HTML file. Every sentence is computed from the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpm_video.errors import UserError
from hpm_video.own_folder import all_names, own_folder
from hpm_video.report.charts import choose_colours, draw_scores
from hpm_video.report.comparison import (
    TOLERANCE,
    Difference,
    Mean,
    Variant,
    check_comparable,
    compare_variants,
    group_variants,
    mean_of,
    varied_keys,
)
from hpm_video.report.curves import CURVES, draw_curves, read_metrics
from hpm_video.report.document import Block, Heading, Paragraph, Picture, Table, write_html, write_markdown
from hpm_video.report.finished_runs import Run, open_runs
from hpm_video.report.literature import published_table
from hpm_video.runs.kind import METRICS

TUNING_CURVES = {"loss": "training loss", "held_out/top1": "top-1 of held-out clips, one view", "lr": "learning rate"}
SHARED_SHOWN = {
    "kind": "kind",
    "data.name": "data",
    "data.num_rows": "training rows",
    "model.size": "size",
    "model.width": "width",
    "model.depth": "blocks",
    "data.num_frames": "frames",
    "data.frame_size_px": "pixels",
    "optim.batch_size": "batch",
    "clips": "clips trained on",
    "objective.target": "target",
    "versions.hpm_video": "hpm_video",
    "versions.torch": "torch",
    "commit.commit": "commit",
}


def write_comparison(
    folders: Sequence[Path],
    out: Path,
    *,
    shared: Sequence[str] = (),
    vary: Sequence[str] = (),
    group: str | None = None,
    compare: str = "steps",
) -> list[Path]:
    """Write report.md with its pictures, and report.html, into `out`; return both files. Raises UserError if the runs
    cannot be read or compared (`check_comparable`).

    group: a key; each of its values gets its own comparison. Variants are compared with the first one.
    """
    groups = split_runs(open_runs(folders), group)
    for runs in groups.values():
        check_comparable(runs, shared, vary, compare)
    blocks: list[Block] = []
    for name, runs in groups.items():
        blocks += describe_runs(runs, vary, compare, f"{group}={name}: " if group else "")
    blocks += [Heading("Published results of others"), Paragraph(PUBLISHED_NOTE), Table(*published_table())]
    title = f"Comparison of {_count(sum(map(len, groups.values())), 'run')}"
    with own_folder(out, "hpm-video report", find_older_report) as own:
        written = {"report.md", "report.html", *(block.file for block in blocks if isinstance(block, Picture))}
        own.reserve(written)
        write_markdown(out / "report.md", title, blocks)
        write_html(out / "report.html", title, blocks)
        for name in own.names - written:  # pictures of an earlier report
            own.remove(name)
    return [out / "report.md", out / "report.html"]


def find_older_report(folder: Path) -> list[str] | None:
    """Return the files of a report written before marks existed; None if the folder is anything else."""
    names = all_names(folder, "report.md", "report.html", "*.png")
    text = (folder / "report.md").read_text(encoding="utf-8") if names and "report.md" in names else ""
    return names if text.startswith("# Comparison of ") else None


PUBLISHED_NOTE = (
    "None of these numbers was measured here. They are top-1 in per cent after full fine-tuning, as published, each with its own "
    "recipe and test, and are not part of the comparison above."
)
CAPTION = (
    "Small points are runs. Large points are means with one standard error over seeds, or single runs with their 95 % interval. "
    "Costs are of training; those of fine-tuned runs include pretraining. Variants of equal cost are drawn 3 % apart."
)


def split_runs(runs: Sequence[Run], group: str | None) -> dict[str, list[Run]]:
    """Return the runs for each value of a key. Raises UserError if a run lacks the key."""
    if group is None:
        return {"": list(runs)}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if group not in run.facts:
            raise UserError(f"--group {group}: {run.name} has no such setting; expected a key that every run has")
        groups.setdefault(str(run.facts[group]), []).append(run)
    return groups


def describe_runs(runs: Sequence[Run], vary: Sequence[str], compare: str, prefix: str = "") -> list[Block]:
    """Return all blocks of one comparison. Its headings start with `prefix`."""
    variants, metrics = group_variants(runs, vary), list(dict.fromkeys(m for run in runs for m in run.scores))
    blocks: list[Block] = [Heading(f"{prefix}Summary")]
    blocks += [Paragraph(sentence) for sentence in summarise(variants, metrics, compare)]
    if len(variants) > 1 and metrics:
        blocks += [Heading(f"{prefix}Compared with {variants[0].label}"), difference_table(variants, metrics)]
    blocks += [Heading(f"{prefix}Means over seeds, with standard errors"), variant_table(variants, metrics)]
    blocks += [
        Heading(f"{prefix}All runs"),
        run_table(runs, vary, metrics),
        Paragraph(describe_shared(runs), small=True),
    ]
    colours = choose_colours([variant.label for variant in variants])
    scores = draw_scores(variants, metrics, colours)
    if scores is not None:
        blocks += [Picture(f"{prefix}Scores against compute", scores), Paragraph(CAPTION, small=True)]
    curves = draw_all_curves(variants, colours)
    if curves is not None:
        blocks.append(Picture(f"{prefix}Curves", curves))
    return blocks


def summarise(variants: Sequence[Variant], metrics: Sequence[str], compare: str) -> list[str]:
    """Return sentences: the terms of the comparison, and for each score which variants are above, level with or below
    the first."""
    runs = [run for variant in variants for run in variant.runs]
    sentences = [_terms_sentence(runs, variants, compare)]
    if not metrics:
        return [*sentences, _missing_scores_sentence(runs)]
    if len(variants) > 1:
        sentences += [_verdict_sentence(variants, metric) for metric in metrics]
    machines = {name_machine(run.results) for run in runs}
    if len(machines) > 1:
        sentences.append(f"The runs used {len(machines)} kinds of machine: compare their FLOPs, not their hours.")
    unknown = [run.name for run in runs if run.pretraining_unknown]
    if unknown:
        text = "Started from weights of unknown cost, so their hours are of fine-tuning alone"
        sentences.append(f"{text}: {', '.join(unknown)}.")
    software = [key for key in runs[0].facts if key.startswith(("versions.", "commit.commit"))]
    mixed = [key for key in software if len({run.facts.get(key) for run in runs}) > 1]
    if mixed:
        sentences.append(f"Not the same in all runs: {', '.join(mixed)}.")
    dirty = [run.name for run in runs if (run.results.get("commit") or {}).get("dirty")]
    if dirty:
        named = "all runs" if len(dirty) == len(runs) else ", ".join(dirty)
        sentences.append(f"Run from a checkout with uncommitted changes, which the commit does not show: {named}.")
    return sentences


def _missing_scores_sentence(runs: Sequence[Run]) -> str:
    """Return the command to try if no run has a score in its results.json. Scores made during training are named: they
    do not count."""
    command = "test" if runs[0].results["kind"] == "finetune" else "score"
    text = f"No run has a score yet. Try: hpm-video {command} {runs[0].folder}"
    early = [run.name for run in runs if any((run.folder / "scores").glob("[!.]*.json"))]
    return f"{text} (scored before training ended, which does not count: {', '.join(early)})" if early else text


def _terms_sentence(runs: Sequence[Run], variants: Sequence[Variant], compare: str) -> str:
    equal = f"equal FLOPs (within {TOLERANCE:.0%})" if compare == "compute" else "an equal number of training clips"
    text = f"{_count(len(runs), 'run')} of {_count(len(variants), 'variant')}, with {equal}."
    counts = sorted({len(variant.runs) for variant in variants})
    text += f" Seeds of each variant: {' or '.join(map(str, counts))}."
    if len({run.facts.get("data.fingerprint") for run in runs}) > 1:
        text += " Each seed has its own training rows, the same for all variants."
    if len(variants) > 1 and 1 < counts[0] < 10:
        text += (
            f" With {counts[0]} seeds, chance alone exceeds two standard errors in {chance_beyond(counts[0]):.0%} of comparisons "
            "(Student's t)."
        )
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def chance_beyond(num_seeds: int, num_errors: float = 2.0) -> float:
    """Return how often the mean of `num_seeds` paired differences exceeds `num_errors` standard errors without an effect
    (Student's t)."""
    from scipy.stats import t

    return float(2 * t.sf(num_errors, num_seeds - 1))


def _verdict_sentence(variants: Sequence[Variant], metric: str) -> str:
    first, others = variants[0], [variant for variant in variants[1:] if variant.scores(metric)]
    if not first.scores(metric) or not others:
        return f"{metric}: not compared, because {first.label} or all other variants lack this score."
    found: dict[str, list[str]] = {}
    for variant in others:
        difference = compare_variants(variant, first, metric)
        text = f"{variant.label} ({_with_error(difference, '+.3f', '.3f')})"
        found.setdefault(difference.verdict, []).append(text)
    parts = [f"{verdict}: {', '.join(texts)}" for verdict, texts in found.items()]
    return f"{metric}, compared with {first.label}: {'; '.join(parts)}."


def difference_table(variants: Sequence[Variant], metrics: Sequence[str]) -> Table:
    """Return the differences to the first variant; `level` is within two standard errors."""
    rows = []
    for metric in metrics:
        for variant in variants[1:]:
            if variant.scores(metric) and variants[0].scores(metric):
                found = compare_variants(variant, variants[0], metric)
                error = "-" if found.error is None else f"{found.error:.3f}"
                rows.append([variant.label, metric, f"{found.value:+.3f}", error, found.over, found.verdict])
    return Table(["variant", "score", "difference", "standard error", "error over", "verdict"], rows)


def variant_table(variants: Sequence[Variant], metrics: Sequence[str]) -> Table:
    """Return the means of each variant over its seeds."""
    rows = []
    for variant in variants:
        flops = [run.flops for run in variant.runs if run.flops is not None]
        cells = [variant.label, str(len(variant.runs)), f"{mean_of(flops).value:.3g}" if flops else "-"]
        cells.append(_with_error(mean_of([run.hours for run in variant.runs]), ".3g", ".1g"))
        scores = [[score.value for score in variant.scores(metric)] for metric in metrics]
        rows.append([*cells, *(_with_error(mean_of(values), ".3f", ".3f") if values else "-" for values in scores)])
    return Table(["variant", "seeds", "FLOPs", "hours", *metrics], rows)


def _with_error(found: Mean | Difference, form: str, error_form: str) -> str:
    return f"{found.value:{form}}" + ("" if found.error is None else f" ± {found.error:{error_form}}")


def run_table(runs: Sequence[Run], vary: Sequence[str], metrics: Sequence[str]) -> Table:
    """Return all runs; scores are followed by their 95 % interval if it was recorded."""
    keys = varied_keys(runs, vary)
    head = ["run", "seed", *keys, "steps", "epochs", "FLOPs", "hours", "device-hours", "machine", *metrics]
    rows = []
    for run in runs:
        results, figures = run.results, run.results["figures"]
        clips, num_rows = run.facts.get("clips"), run.facts.get("data.num_rows")
        cells = [
            run.name,
            run.seed,
            *(str(run.facts.get(key, "-")) for key in keys),
            _to_text(figures.get("steps", "-")),
        ]
        cells += [f"{clips / num_rows:.3g}" if clips and num_rows else "-", f"{run.flops:.3g}" if run.flops else "-"]
        cells += [f"{run.hours:.3g}", f"{run.device_hours:.3g}", name_machine(results)]
        rows.append([*cells, *(_with_interval(run, metric) for metric in metrics)])
    return Table(head, rows)


def _with_interval(run: Run, metric: str) -> str:
    if metric not in run.scores:
        return "-"
    score = run.scores[metric]
    return f"{score.value:.3f}" + (f" [{score.interval[0]:.3f}, {score.interval[1]:.3f}]" if score.interval else "")


def name_machine(results: Mapping[str, Any]) -> str:
    """Return '8 x NVIDIA H100', or the processor with its cores; then the number of processes, if there were several."""
    found = results.get("hardware") or {}
    names = found.get("accelerators") or []
    device = ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    device = device or f"{found.get('processor', 'unknown')}, {found.get('cores', '?')} cores"
    num = results.get("world_size", 1)
    return device if num == 1 else f"{device}, {num} processes"


def describe_shared(runs: Sequence[Run]) -> str:
    """Return the main settings that are the same in all runs, as one sentence."""
    parts = []
    for key, name in SHARED_SHOWN.items():
        value = runs[0].facts.get(key)
        if value not in (None, "") and all(run.facts.get(key) == value for run in runs):
            parts.append(f"{name} {_to_text(value)}")
    for key, value in runs[0].facts.items():
        if key.startswith("scores.") and key.endswith(("num_clips", "num_crops")):
            parts.append(f"{key.removeprefix('scores.')} {value}")
    return f"In all runs: {'; '.join(parts)}. FLOPs are {runs[0].results.get('flops_note', 'counted')}."


def _to_text(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(_to_text, value))
    return f"{value:,}" if type(value) is int else str(value)


def draw_all_curves(variants: Sequence[Variant], colours: Mapping[str, str]) -> bytes | None:
    """Draw a line for each run and a colour for each variant. Return None if no run has metrics."""
    folders = {v.label: [r.folder for r in v.runs if (r.folder / METRICS).is_file()] for v in variants}
    keys = {key for runs in folders.values() for run in runs for line in read_metrics(run) for key in line}
    tuning = variants[0].runs[0].results["kind"] == "finetune"
    curves = {key: title for key, title in (TUNING_CURVES if tuning else CURVES).items() if key in keys}
    if not curves or "seconds" not in keys:
        return None
    return draw_curves({label: runs for label, runs in folders.items() if runs}, curves, colours)

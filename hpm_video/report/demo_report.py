"""Write the report of the demonstration as one HTML file. Every sentence is computed from the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpm_video.evals.frozen.mlp_probe import DRAWS, FEW_LABELS
from hpm_video.evals.metrics import standard_error
from hpm_video.report.document import Block, Code, Heading, Paragraph, Picture, Table, write_html

SCORES = {"knn": "kNN", "few_labels": f"MLP probe of {FEW_LABELS} labels a class"}
NAMES = {
    "untrained": "untrained",
    "videomae": "VideoMAE",
    "random": "random masking",
    "hpm": "HPM",
}


def write_report(file: Path, results: Mapping[str, Any], pictures: Mapping[str, bytes | None]) -> None:
    """Write the page. results: the content of the demo's results.json. pictures: heading -> PNG (None is left out)."""
    blocks: list[Block] = [Paragraph(sentence) for sentence in summarise(results)]
    blocks += [Heading("Frozen encoder, accuracy on the validation split"), _score_table(results)]
    blocks.append(_single_frame_line(results))
    blocks += [Picture(heading, picture) for heading, picture in pictures.items() if picture is not None]
    seconds = [[name, f"{value:,.0f}"] for name, value in results["seconds"].items()]
    blocks += [Heading("Time"), Table(["part", "seconds"], seconds)]
    blocks += [Heading("Commands"), Code("\n".join(results["commands"]))]
    machine = ", ".join(f"{k} {v}" for k, v in results["machine"].items())
    blocks.append(Paragraph(f"seed {results['seed']}; {machine}", small=True))
    write_html(file, results["title"], blocks)


def summarise(results: Mapping[str, Any]) -> list[str]:
    """Return sentences: which encoder is the best, which encoders learned, and which masks did better."""
    trained = [name for name in NAMES if name in results and name != "untrained"]
    sentences = [_best_sentence(results, trained), _probe_sentence(results, trained), _time_sentence(results)]
    sentences += [_compare(results, name, "untrained") for name in trained]
    sentences += [_compare(results, name, "random") for name in trained if name != "random"]
    sentences[-1] += " These errors are of one run: other seeds add to them."
    sentences.append(_frame_sentence(results))
    sentences.append(_mask_sentence(results))
    return [text for text in sentences if text]


def _mask_sentence(results: Mapping[str, Any]) -> str:
    """Return what HPM's masks hide, as the run logged it at its end; empty if it logged nothing."""
    gains, visible = results.get("hardness_gain", []), results.get("difficulty_visible", [])
    if gains:
        verdict = "harder" if gains[-1] > 1 else "not harder"
        return (
            f"Hardness gain on held-out clips at the end: {gains[-1]:.3f}. The masks are {verdict} than random masks."
        )
    if not visible:
        return ""
    return (
        f"The tubes that HPM leaves visible have a mean difficulty rank of {visible[-1] / 2:.2f} (0: the easiest, 1: the hardest, "
        f"random masks: 0.50). The rank correlation of its difficulty with the true loss of training clips is "
        f"{results['difficulty_correlation'][-1]:.2f}."
    )


def _best_sentence(results: Mapping[str, Any], trained: list[str]) -> str:
    """Return the main result by kNN, the score that differs most here: HPM compared with random masks, else the best encoder."""
    if {"hpm", "random"} <= set(trained):
        scores = f"{results['hpm']['knn']:.3f} and {results['random']['knn']:.3f}"
        text = f"{NAMES['hpm']} is {_judge(results, 'hpm', 'random', 'knn')}: {scores}"
    else:
        best = max(trained, key=lambda name: results[name]["knn"])
        text = f"Best by kNN: {NAMES[best]}, {results[best]['knn']:.3f}"
    return f"{text} (untrained {results['untrained']['knn']:.3f})."


def _probe_sentence(results: Mapping[str, Any], trained: list[str]) -> str:
    parts = []
    for key, label in SCORES.items():
        scores = ", ".join(f"{NAMES[name]} {results[name][key]:.3f}" for name in [*trained, "untrained"])
        parts.append(f"{label}: {scores}")
    return f"Accuracy of the frozen encoder by {'; by '.join(parts)} (chance {results['chance']:.3f})."


def _time_sentence(results: Mapping[str, Any]) -> str:
    """Return the training time of each run; all runs had equal multiply-adds."""
    runs = results["runs"]
    if not runs:
        return ""
    parts = [f"{NAMES[name]} {run['seconds']:,.0f} s ({run['steps']:,} steps)" for name, run in runs.items()]
    return f"Training time at equal multiply-adds: {', '.join(parts)}."


def _compare(results: Mapping[str, Any], one: str, other: str) -> str:
    """Return a sentence that compares two encoders by both scores."""
    name = NAMES[one][0].upper() + NAMES[one][1:]
    return f"{name} is {' and '.join(_judge(results, one, other, key) for key in SCORES)}."


def _judge(results: Mapping[str, Any], one: str, other: str, key: str) -> str:
    """Return the verdict on two encoders by a score, with the standard error of their difference (videos as independent)."""
    a, b = results[one][key], results[other][key]
    error = ((a * (1 - a) + b * (1 - b)) / results["num_test"]) ** 0.5
    word = "level with" if abs(a - b) < 2 * error else "above" if a > b else "below"
    return f"{word} {NAMES[other]} by {SCORES[key]} ({a - b:+.3f} ± {error:.3f})"


def _frame_sentence(results: Mapping[str, Any]) -> str:
    name, best = max(results["single_frame"].items(), key=lambda item: item[1])
    chance = results["chance"]
    error = standard_error(chance, results["num_test"])
    verdict = "does not reveal" if best - chance < 3 * error else "partly reveals"
    return f"A single frame {verdict} the label: accuracy {best:.3f} ({name}), chance {chance:.3f} ± {error:.3f}."


def _score_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for name in [name for name in NAMES if name in results]:
        scores, run = results[name], results["runs"].get(name, {})
        trained = [f"{run['steps']:,}", f"{run['seconds']:,.0f}"] if run else ["-", "-"]
        rows.append([name, *(f"{scores[key]:.3f}" for key in SCORES), *trained])
    return Table(["encoder", *SCORES.values(), "steps", "seconds of training"], rows)


def _single_frame_line(results: Mapping[str, Any]) -> Paragraph:
    scores = ", ".join(f"{name} {value:.3f}" for name, value in results["single_frame"].items())
    text = (
        f"Chance is {results['chance']:.3f}. kNN: 20 neighbours by cosine. MLP probe: one hidden layer, the mean of "
        f"{DRAWS} draws of the labels. Both use standardised features. Accuracy from a single frame, by the better of two random forests "
        f"(on pixels, on the outline): {scores}."
    )
    return Paragraph(text, small=True)

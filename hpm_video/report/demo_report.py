"""The page of the demonstration, one self-contained HTML file. Every sentence is computed from the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpm_video.evals.metrics import standard_error
from hpm_video.report.document import Block, Code, Heading, Paragraph, Picture, Table, write_html

SCORES = {"linear": "linear probe", "knn": "kNN"}
NAMES = {
    "untrained": "untrained",
    "videomae": "VideoMAE",
    "random": "random masking",
    "hpm": "HPM",
}


def write_report(file: Path, results: Mapping[str, Any], pictures: Mapping[str, bytes | None]) -> None:
    """Write the page. `results` as the demo writes results.json; `pictures`: heading -> PNG, None is left out."""
    blocks: list[Block] = [Paragraph(sentence) for sentence in summarise(results)]
    blocks += [Heading("Frozen encoder, accuracy on the validation split"), _score_table(results)]
    blocks.append(_single_frame_line(results))
    blocks += [Picture(heading, picture) for heading, picture in pictures.items() if picture is not None]
    seconds = [[name, f"{value:.0f}"] for name, value in results["seconds"].items()]
    blocks += [Heading("Time"), Table(["part", "seconds"], seconds)]
    blocks += [Heading("How it was made"), Code("\n".join(results["commands"]))]
    machine = ", ".join(f"{k} {v}" for k, v in results["machine"].items())
    blocks.append(Paragraph(f"seed {results['seed']}; {machine}", small=True))
    write_html(file, results["title"], blocks)


def summarise(results: Mapping[str, Any]) -> list[str]:
    """Return sentences: which encoder is the best, if each learned, and which masks did better, whatever the answer."""
    trained = [name for name in NAMES if name in results and name != "untrained"]
    said = [_best_sentence(results, trained), _probe_sentence(results, trained), _time_sentence(results)]
    said += [_compare(results, name, "untrained") for name in trained]
    said += [_compare(results, name, "random") for name in trained if name != "random"]
    said[-1] += " One run: seeds add to the error."
    said.append(_frame_sentence(results))
    gains = results.get("hardness_gain", [])
    if gains:
        verdict = "harder than random ones" if gains[-1] > 1 else "not harder than random ones"
        said.append(f"Hardness gain on held-out clips at the end: {gains[-1]:.3f}, the masks are {verdict}.")
    return [text for text in said if text]


def _best_sentence(results: Mapping[str, Any], trained: list[str]) -> str:
    """Return what was found, by the kNN, the score that shows most here: the masks against random ones, else the best."""
    if {"hpm", "random"} <= set(trained):
        found = f"{NAMES['hpm']} is {_judge(results, 'hpm', 'random', 'knn')}"
        return f"{found}: {results['hpm']['knn']:.3f}, {results['random']['knn']:.3f} (untrained {results['untrained']['knn']:.3f})."
    best = max(trained, key=lambda name: results[name]["knn"])
    return f"Best by kNN: {NAMES[best]}, {results[best]['knn']:.3f} (untrained {results['untrained']['knn']:.3f})."


def _probe_sentence(results: Mapping[str, Any], trained: list[str]) -> str:
    parts = []
    for key, label in SCORES.items():
        scores = ", ".join(f"{results[name][key]:.3f} {NAMES[name]}" for name in [*trained, "untrained"])
        parts.append(f"{label} {scores}")
    return f"Frozen encoder, accuracy: {'; '.join(parts)} (chance {results['chance']:.3f})."


def _time_sentence(results: Mapping[str, Any]) -> str:
    """Return how long each trained, by the clock: they got equal multiply-adds."""
    runs = results["runs"]
    if not runs:
        return ""
    parts = [f"{NAMES[name]} {run['seconds']:.0f} s ({run['steps']} steps)" for name, run in runs.items()]
    return f"Trained for equal multiply-adds: {', '.join(parts)}."


def _compare(results: Mapping[str, Any], one: str, other: str) -> str:
    """Return both scores of two encoders beside each other."""
    return f"{NAMES[one]} is {' and '.join(_judge(results, one, other, key) for key in SCORES)}."


def _judge(results: Mapping[str, Any], one: str, other: str, key: str) -> str:
    """Return if one encoder is above the other by a score, with the standard error of a difference on this many videos (taken
    as independent)."""
    a, b = results[one][key], results[other][key]
    error = ((a * (1 - a) + b * (1 - b)) / results["num_test"]) ** 0.5
    word = "level with" if abs(a - b) < 2 * error else "above" if a > b else "BELOW"
    return f"{word} {NAMES[other]} by the {SCORES[key]} ({a - b:+.3f} +- {error:.3f})"


def _frame_sentence(results: Mapping[str, Any]) -> str:
    name, best = max(results["single_frame"].items(), key=lambda item: item[1])
    chance = results["chance"]
    error = standard_error(chance, results["num_test"])
    if best - chance < 3 * error:
        return f"A single frame does not tell the label: at most {best:.3f} ({name}), chance is {chance:.3f} +- {error:.3f}."
    return f"A single frame tells something of the label: {best:.3f} ({name}), chance is {chance:.3f} +- {error:.3f}."


def _score_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for name in [name for name in NAMES if name in results]:
        scores, run = results[name], results["runs"].get(name, {})
        steps, seconds = run.get("steps", "-"), run.get("seconds")
        rows.append(
            [
                name,
                f"{scores['linear']:.3f}",
                f"{scores['knn']:.3f}",
                str(steps),
                "-" if seconds is None else f"{seconds:.0f}",
            ]
        )
    return Table(["encoder", "linear probe", "kNN", "steps", "seconds of training"], rows)


def _single_frame_line(results: Mapping[str, Any]) -> Paragraph:
    scores = ", ".join(f"{name} {value:.3f}" for name, value in results["single_frame"].items())
    fitted = (
        "kNN: 20 neighbours by cosine; linear probe: logistic regression, C chosen on training videos; both on standardised "
        "features. One frame: the better of two random forests, on pixels and on the outline"
    )
    return Paragraph(f"Chance {results['chance']:.3f}. {fitted}: {scores}.", small=True)

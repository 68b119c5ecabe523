"""The page of the demonstration, one self-contained HTML file. Every sentence is computed from the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpm_video.evals.metrics import standard_error
from hpm_video.report.document import Block, Code, Heading, Paragraph, Picture, Table, write_html

SCORES = {"linear": "linear probe", "knn": "kNN"}
NAMES = {"hpm": "HPM", "random": "random masking", "untrained": "untrained"}


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
    """Return sentences: if it learned, and which masks did better, whatever the answer."""
    said = [_probe_sentence(results), _time_sentence(results)]
    said += [_compare(results, trained, "untrained") for trained in ("random", "hpm")]
    said += [_compare(results, "hpm", "random") + " One run: seeds add to the error.", _frame_sentence(results)]
    gains = results.get("hardness_gain", [])
    if gains:
        verdict = "harder than random ones" if gains[-1] > 1 else "not harder than random ones"
        said.append(f"Hardness gain on held-out clips at the end: {gains[-1]:.3f}, the masks are {verdict}.")
    return [text for text in said if text]


def _probe_sentence(results: Mapping[str, Any]) -> str:
    parts = [
        f"{label} {results['hpm'][key]:.3f} after HPM pretraining, {results['random'][key]:.3f} after pretraining with random "
        f"tubes, {results['untrained'][key]:.3f} untrained"
        for key, label in SCORES.items()
    ]
    return f"Frozen encoder, accuracy: {'; '.join(parts)} (chance {results['chance']:.3f})."


def _time_sentence(results: Mapping[str, Any]) -> str:
    """Return how equal the times were, by the clock and not by the plan."""
    hpm, random = (results["runs"].get(name) for name in ("hpm", "random"))
    if not hpm or not random:
        return ""
    text = f"HPM trained {hpm['seconds']:.0f} s ({hpm['steps']} steps), random masks {random['seconds']:.0f} s ({random['steps']} steps)"
    if "cost_of_hpm_step" in results:
        text += f"; steps were set by timing both in turns: one of HPM costs {results['cost_of_hpm_step']:.2f} of the other's"
    apart = random["seconds"] / hpm["seconds"] - 1
    if abs(apart) > 0.1:
        text += f". The clock differs by {apart:+.0%}: the machine was not equally free, or the timing was off"
    return text + "."


def _compare(results: Mapping[str, Any], one: str, other: str) -> str:
    """Return both scores of two encoders, with the standard error of a difference on this many videos (taken as
    independent)."""
    parts = []
    for key, label in SCORES.items():
        a, b = results[one][key], results[other][key]
        error = ((a * (1 - a) + b * (1 - b)) / results["num_test"]) ** 0.5
        word = "level with" if abs(a - b) < 2 * error else "above" if a > b else "BELOW"
        parts.append(f"{word} {NAMES[other]} by the {label} ({a - b:+.3f} +- {error:.3f})")
    return f"{NAMES[one]} is {' and '.join(parts)}."


def _frame_sentence(results: Mapping[str, Any]) -> str:
    name, best = max(results["single_frame"].items(), key=lambda item: item[1])
    chance = results["chance"]
    error = standard_error(chance, results["num_test"])
    if best - chance < 3 * error:
        return f"A single frame does not tell the label: at most {best:.3f} ({name}), chance is {chance:.3f} +- {error:.3f}."
    return f"A single frame tells something of the label: {best:.3f} ({name}), chance is {chance:.3f} +- {error:.3f}."


def _score_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for name in ("untrained", "random", "hpm"):
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

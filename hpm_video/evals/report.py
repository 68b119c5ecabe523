"""A run, or a comparison of runs, as one self-contained HTML file. Every sentence is computed from the results."""

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .9rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
.small { color: #666; font-size: .9rem; }
"""


def write_report(file: Path, results: Mapping[str, Any], pictures: Mapping[str, bytes | None]) -> None:
    """`results` as the demo writes results.json; `pictures`: heading -> PNG, None is left out."""
    parts = [f"<h1>{html.escape(results['title'])}</h1>"]
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in summarise(results)]
    parts += [
        "<h2>Frozen encoder, accuracy on the validation split</h2>",
        _score_table(results),
        _single_frame_line(results),
    ]
    for heading, picture in pictures.items():
        if picture is not None:
            encoded = base64.b64encode(picture).decode()
            parts.append(
                f'<h2>{html.escape(heading)}</h2><img alt="{html.escape(heading)}" src="data:image/png;base64,{encoded}">'
            )
    parts += ["<h2>Time</h2>", _table(["part", "seconds"], [[k, f"{v:.0f}"] for k, v in results["seconds"].items()])]
    parts.append("<h2>How it was made</h2><pre>" + html.escape("\n".join(results["commands"])) + "</pre>")
    machine = ", ".join(f"{k} {v}" for k, v in results["machine"].items())
    parts.append(f'<p class="small">seed {results["seed"]}; {html.escape(machine)}</p>')
    title = html.escape(results["title"])
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
    file.write_text(page + "<body>" + "\n".join(parts) + "</body></html>\n")


def summarise(results: Mapping[str, Any]) -> list[str]:
    """What came out, in words: whether it learned, and which masks did better, whatever the answer."""
    linear = {name: results[name]["linear"] for name in ("untrained", "random", "hpm")}
    gain = linear["hpm"] - linear["untrained"]
    verb = "above" if gain > 0 else "not above"
    spent = {name: run["seconds"] for name, run in results["runs"].items()}
    times = (
        f" ({spent['hpm']:.0f} s and {spent['random']:.0f} s of training)" if {"hpm", "random"} <= spent.keys() else ""
    )
    knn = {name: results[name]["knn"] for name in linear}
    first = (
        f"kNN on the frozen encoder: {knn['hpm']:.3f} after HPM pretraining, {knn['random']:.3f} after random-tube pretraining "
        f"meant to take the same time{times}, {knn['untrained']:.3f} untrained. Linear probe: {linear['hpm']:.3f}, "
        f"{linear['random']:.3f}, {linear['untrained']:.3f}; chance is {results['chance']:.3f}. "
        f"By the linear probe HPM is {verb} untrained ({gain:+.3f})."
    )
    difference = linear["hpm"] - linear["random"]
    noise = (linear["hpm"] * (1 - linear["hpm"]) * 2 / results["num_test"]) ** 0.5
    better = "HPM" if difference > 0 else "random masking"
    second = (
        f"Between the two kinds of masks, by the linear probe, {better} is ahead by {abs(difference):.3f}; "
        f"the standard error of a difference on {results['num_test']} videos is {noise:.3f}"
    )
    second += (
        ": nothing can be said from one run."
        if abs(difference) < 2 * noise
        else ", and seeds add to it: see the comparison over several."
    )
    gains = [f"{g:.3f}" for g in results.get("hardness_gain", [])]
    third = (
        f"Hardness gain on held-out clips at the end: {gains[-1]} (above 1: the masks are harder than random ones)."
        if gains
        else ""
    )
    return [text for text in (first, second, third) if text]


def _score_table(results: Mapping[str, Any]) -> str:
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
    return _table(["encoder", "linear probe", "kNN", "steps", "seconds of training"], rows)


def _single_frame_line(results: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {value:.3f}" for name, value in results["single_frame"].items())
    return (
        f'<p class="small">Chance {results["chance"]:.3f}. From the pixels of one frame (random forest): {scores}.</p>'
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(tag: str, cells: list[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line("th", head) + "".join(line("td", row) for row in rows) + "</table>"

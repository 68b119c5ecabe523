"""Read finished runs for reports: settings by dotted name, scores with their errors, and the cost of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hpm_video.errors import UserError
from hpm_video.evals.metrics import standard_error
from hpm_video.reading import one_line
from hpm_video.runs.results import FILE, read_results

SCORES_OF_FIGURES = ("top1", "top5", "accuracy", "knn", "linear", "attentive")
NO_SCORES = ("chance",)  # floats in the entry of a score that are not scores; so are those with these endings:
NO_SCORE_ENDINGS = ("_C", "_error", "_s", "_share")


class Score(NamedTuple):
    """A share in 0..1, its 95 % interval and its standard error over the test clips (None if unknown)."""

    value: float
    interval: tuple[float, float] | None
    error: float | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its results.json describes it. facts: every setting by its dotted name. seed: also names the seed of the
    pretraining."""

    name: str
    folder: Path
    results: Mapping[str, Any]
    facts: Mapping[str, Any]
    scores: Mapping[str, Score]
    seed: str

    @property
    def flops(self) -> float | None:
        """Return the FLOPs of training, pretraining included; None if either is unknown."""
        known = [part["flops"] for part in self._parts if part.get("flops") is not None]
        return float(sum(known)) if len(known) == len(self._parts) and not self.pretraining_unknown else None

    @property
    def pretraining_unknown(self) -> bool:
        """Return True if the run started from weights without a record."""
        return self.facts.get("init.weights") is not None and not self.results.get("pretraining")

    @property
    def hours(self) -> float:
        """Return the hours of training (wall clock), pretraining included."""
        return float(sum(part["hours"] for part in self._parts))

    @property
    def device_hours(self) -> float:
        """Return the hours times the number of processes, pretraining included."""
        return float(sum(part["device_hours"] for part in self._parts))

    @property
    def _parts(self) -> list[Mapping[str, Any]]:
        pretraining = self.results.get("pretraining")
        return [self.results, *([pretraining] if pretraining else [])]


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Read finished runs. Raises UserError as `read_results` does, and if a folder is named twice."""
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is named twice; expected each run once")
    names = [path.name for path in paths]
    return [
        open_run(path, path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}")
        for path in paths
    ]


def open_run(folder: Path, name: str) -> Run:
    """Read a finished run. Raises UserError as `read_results` does, or if it is damaged."""
    results = read_results(folder)
    try:
        return _as_run(results, folder, name)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = one_line(error)
        raise UserError(f"{folder / FILE} is damaged ({reason}); expected what this program wrote") from error


def _as_run(results: Mapping[str, Any], folder: Path, name: str) -> Run:
    scores, settings = read_scores(results)
    pretraining = results.get("pretraining")
    facts = _facts_of(results) | settings | {"kind": results["kind"]}
    seed = str(results["seed"])
    if pretraining:
        facts |= {f"pretraining.{key}": value for key, value in _facts_of(pretraining).items()}
        seed += f" (pretraining {pretraining['seed']})"
    return Run(name=name, folder=folder, results=results, facts=facts, scores=scores, seed=seed)


def _facts_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return configuration, data, environment and number of clips trained on, by dotted name."""
    facts = flatten(part["config"]) | flatten({"data": part.get("data") or {}})
    facts |= flatten({name: part.get(name) or {} for name in ("versions", "hardware", "commit")})
    return facts | {"world_size": part.get("world_size"), "clips": num_clips(part)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def num_clips(part: Mapping[str, Any]) -> int | None:
    """Return the clips trained on: steps x batch."""
    steps = (part.get("figures") or {}).get("steps")
    return None if steps is None else int(steps) * int(part["config"]["optim"]["batch_size"])


def read_scores(results: Mapping[str, Any]) -> tuple[dict[str, Score], dict[str, Any]]:
    """Return the scores by name and the settings by dotted name, as defined in `hpm_video.runs.results.add_scores`."""
    of_figures = {name: value for name, value in results["figures"].items() if name.startswith(SCORES_OF_FIGURES)}
    scores, settings = {}, {}
    for name, entry in {"": of_figures, **results["scores"]}.items():
        for key, value in entry.items():
            if isinstance(value, bool | int | str):
                settings[f"scores.{name}.{key}"] = value
            elif isinstance(value, float) and 0 <= value <= 1 and _is_score(key):
                scores[f"{name} {key}".strip()] = _score(value, entry.get(f"{key}_interval"), entry.get("num_test"))
    return scores, settings


def _is_score(key: str) -> bool:
    return key not in NO_SCORES and not key.endswith(NO_SCORE_ENDINGS)


def _score(value: float, interval: Sequence[float] | None, num_test: int | None) -> Score:
    if interval is not None:
        low, high = interval
        return Score(value, (low, high), (high - low) / (2 * 1.96))
    return Score(value, None, standard_error(value, num_test) if num_test else None)

"""Check which runs can be compared, average their scores over seeds, and judge the differences."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hpm_video.errors import UserError
from hpm_video.report.finished_runs import Run, Score
from hpm_video.runs.folder import FREE
from hpm_video.terminal import suggest

ABSENT = "(absent)"
TOLERANCE = 0.05  # FLOPs that differ by less count as equal compute
# keys that do not change the result (execution, logging), that are compared in another way (clips), or that are averaged over (seed)
UNCOMPARED = {
    *FREE,
    "data.content",  # earlier versions did not record it; the fingerprint is compared
    "train.epochs",
    "train.steps",
    "train.seed",
    "train.measure_every_steps",
    "train.num_pictures",
    "test.batch_size",
}
ENVIRONMENT = ("versions", "hardware", "commit", "world_size")


class Variant(NamedTuple):
    """Runs that differ in the seed only."""

    label: str
    runs: list[Run]

    def scores(self, metric: str) -> list[Score]:
        """Return the scores of this name, run by run."""
        return [run.scores[metric] for run in self.runs if metric in run.scores]

    def by_seed(self, metric: str) -> dict[str, float]:
        """Return the values of this score by seed."""
        return {run.seed: run.scores[metric].value for run in self.runs if metric in run.scores}


class Mean(NamedTuple):
    """A mean over seeds."""

    value: float
    error: float | None  # standard error over seeds; None if there is one seed


class Difference(NamedTuple):
    """A difference of two variants' means, with its standard error (None: unknown)."""

    value: float
    error: float | None
    over: str  # what the error was computed over: seeds, paired seeds, test clips

    @property
    def verdict(self) -> str:
        """Return above, below, or level (within two standard errors)."""
        if self.error is None:
            return "cannot be judged"
        if abs(self.value) <= 2 * self.error:
            return "level"
        return "above" if self.value > 0 else "below"


def check_comparable(runs: Sequence[Run], shared: Iterable[str], vary: Sequence[str], compare: str) -> None:
    """Raise UserError if runs differ in a setting that they must share. The message has the key, two runs and both values.

    Runs must share every setting, except keys or sections in `vary` and keys that only affect execution and logging;
    `shared` names some of the latter that must be equal too. compare: steps (equal clips trained on) or compute (equal
    FLOPs).
    """
    shared = set(shared)
    known = sorted({key for run in runs for key in run.facts}, key=lambda key: (key not in ("kind", "data.name"), key))
    for key in [*shared, *vary]:
        _check_known(key, known, sections=key not in shared)
    variants = group_variants(runs, vary)
    for key in known:
        if key in shared or (_is_compared(key, runs, compare) and not is_varied(key, vary)):
            _check_key(key, runs, variants)
    if compare == "compute":
        _check_flops(runs)
    for variant in variants:
        _check_seeds(variant)


def _check_known(key: str, known: Sequence[str], sections: bool) -> None:
    if key in known or (sections and any(is_varied(name, [key]) for name in known)):
        return
    raise UserError(f"'{key}' is not a setting of these runs{suggest(key, known)}")


def is_varied(key: str, vary: Iterable[str]) -> bool:
    """Return True if `vary` names the key, a section of it, or the same key of the pretraining."""
    names = (key, key.removeprefix("pretraining."))
    return any(name == v or name.startswith(f"{v}.") for name in names for v in vary)


def _is_compared(key: str, runs: Sequence[Run], compare: str) -> bool:
    bare = key.removeprefix("pretraining.")
    section = bare.split(".")[0]
    if bare == "clips":
        return compare == "steps"
    if section == "engine":
        return bare == "engine.precision"
    if bare in UNCOMPARED or section in ENVIRONMENT or (section == "scores" and bare.endswith("num_unreadable")):
        return False
    return not any(isinstance(run.facts.get(key), str) and "/" in run.facts[key] for run in runs)  # a path


def _check_key(key: str, runs: Sequence[Run], variants: Sequence["Variant"]) -> None:
    """Raise UserError if runs differ in a key. A score that a run lacks is not a difference. Keys that describe a fold
    of the data can differ between seeds, if all variants have the same seeds."""
    if key.startswith("scores."):
        runs = [run for run in runs if key in run.facts]
    groups = [list(runs)]
    if _is_of_fold(key):
        runs = [run for run in runs if run.facts.get(key) is not None]  # null: unknown, as for shards
        groups = [list(runs)]
        if len({frozenset(run.seed for run in variant.runs) for variant in variants}) == 1:
            groups = [[run for run in runs if run.seed == seed] for seed in sorted({run.seed for run in runs})]
    for group in groups:
        for run in group[1:]:
            if run.facts.get(key, ABSENT) != group[0].facts.get(key, ABSENT):
                raise _differ(key, group[0], run)


def _is_of_fold(key: str) -> bool:
    section, last = key.removeprefix("pretraining.").split(".")[0], key.split(".")[-1]
    return last in ("fingerprint", "num_rows", "clips") or (section == "scores" and last in ("num_train", "num_test"))


def _differ(key: str, one: Run, other: Run) -> UserError:
    a, b = (run.facts.get(key, ABSENT) for run in (one, other))
    hint = "--compare compute, if FLOPs are equal" if key.endswith("clips") else f"--vary {key}, if you study this key"
    return UserError(
        f"{key}: {a!r} in {one.name}, {b!r} in {other.name}; expected the same in all runs of a comparison. Try {hint}"
    )


def _check_flops(runs: Sequence[Run]) -> None:
    costs = []
    for run in runs:
        if run.flops is None:
            raise UserError(f"flops: not recorded for {run.name}; expected them for every run. Try --compare steps")
        costs.append((run.flops, run.name))
    (least, cheap), (most, dear) = min(costs), max(costs)
    if most > (1 + TOLERANCE) * least:
        raise UserError(
            f"flops: {least:.4g} in {cheap}, {most:.4g} in {dear}; expected them within {TOLERANCE:.0%} of each other in a "
            "comparison at equal compute"
        )


def _check_seeds(variant: "Variant") -> None:
    first: dict[str, Run] = {}
    for run in variant.runs:
        twin = first.setdefault(run.seed, run)
        if twin is not run:
            raise UserError(
                f"train.seed: {run.seed!r} in {twin.name} and in {run.name}, which have the same settings; expected different "
                "seeds. Try --vary KEY, if they differ in a key"
            )


def varied_keys(runs: Sequence[Run], vary: Sequence[str]) -> list[str]:
    """Return the keys of `vary` whose values differ, in its order."""
    keys = sorted({key for run in runs for key in run.facts if is_varied(key, vary)})
    keys.sort(key=lambda key: next(i for i, v in enumerate(vary) if is_varied(key, [v])))
    return [key for key in keys if len({repr(run.facts[key]) for run in runs if key in run.facts}) > 1]


def group_variants(runs: Sequence[Run], vary: Sequence[str]) -> list["Variant"]:
    """Return the variants in the order of `runs`. The first one is the baseline of the comparison."""
    keys = varied_keys(runs, vary)
    variants: dict[str, list[Run]] = {}
    pretrained = any(run.results.get("pretraining") for run in runs)
    for run in runs:
        label = _label(run, runs[0], keys)
        if pretrained and not run.results.get("pretraining"):
            label = "weights without a record" if run.pretraining_unknown else "random initialisation"
        variants.setdefault(label, []).append(run)
    return [Variant(label, members) for label, members in variants.items()]


def _label(run: Run, first: Run, keys: Sequence[str]) -> str:
    """Return the varied keys as text: strings as they are, other values with their key. The first key is always there,
    the others only if they differ from the first run's."""
    values = [(key, run.facts.get(key)) for key in keys if key == keys[0] or run.facts.get(key) != first.facts.get(key)]
    parts = [value if isinstance(value, str) else f"{key.split('.')[-1]}={str(value).lower()}" for key, value in values]
    return ", ".join(parts) or "all runs"


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean and its standard error: std (with n - 1) divided by the square root of n."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return Mean(float(np.mean(values)), error)


def compare_variants(one: Variant, other: Variant, metric: str) -> Difference:
    """Return the difference of two variants: paired by seed if both have the same seeds, else of the two means. For
    single runs the error is over their test clips."""
    a, b = one.by_seed(metric), other.by_seed(metric)
    if len(a) > 1 and a.keys() == b.keys():
        paired = mean_of([a[seed] - b[seed] for seed in a])
        return Difference(paired.value, paired.error, "paired seeds")
    value = float(np.mean([*a.values()]) - np.mean([*b.values()]))
    errors = [
        mean_of([*values.values()]).error if len(values) > 1 else variant.scores(metric)[0].error
        for values, variant in ((a, one), (b, other))
    ]
    if errors[0] is None or errors[1] is None:
        return Difference(value, None, "one run each, error of the score unknown")
    over = "seeds" if min(len(a), len(b)) > 1 else "test clips" if max(len(a), len(b)) == 1 else "seeds and test clips"
    return Difference(value, float(np.hypot(errors[0], errors[1])), over)

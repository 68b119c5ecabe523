"""The trackers of train.trackers. Every run also writes RUN/metrics.jsonl and RUN/tensorboard."""

from dataclasses import dataclass
from importlib.util import find_spec

from hpm_video.config.tables import Row, Table
from hpm_video.errors import UserError

ADAPTERS = "hpm_video.train.trackers"


@dataclass(frozen=True, kw_only=True)
class TrackerRow(Row):
    """A tracker: `make(run folder, configuration) -> Tracker`."""

    library: str  # the package that the adapter imports


TRACKERS = Table(
    mlflow=TrackerRow(help="MLflow", implementation=f"{ADAPTERS}:MLflow", library="mlflow"),
    trackio=TrackerRow(help="trackio", implementation=f"{ADAPTERS}:Trackio", library="trackio"),
    wandb=TrackerRow(help="Weights & Biases", implementation=f"{ADAPTERS}:WandB", library="wandb"),
)


def list_trackers(names: str | None) -> list[str]:
    """Return the names of train.trackers. Raises UserError if one of them is not a row of TRACKERS."""
    found = [] if names is None else [name.strip() for name in names.split(",")]
    for name in found:
        if name not in TRACKERS:
            raise UserError(f"train.trackers: '{name}'; expected names of {', '.join(TRACKERS)}, separated by commas")
    return list(dict.fromkeys(found))


def check_installed(names: str | None) -> None:
    """Raise UserError if the library of a tracker is not installed, without importing any."""
    for name in list_trackers(names):
        if find_spec(TRACKERS[name].library) is None:
            raise UserError(
                f"train.trackers: {name} is not installed; expected its library. Try: pip install 'hpm-video[trackers]'"
            )

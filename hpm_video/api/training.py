"""Train from Python: the functions behind `hpm-video pretrain` and `hpm-video finetune`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpm_video.api.keys import join_keys, make_overrides
from hpm_video.api.shown import showing
from hpm_video.config import PretrainConfig, load_config, load_finetune_config
from hpm_video.config.trackers import check_installed
from hpm_video.errors import UserError
from hpm_video.reading import read_json, read_rows
from hpm_video.runs.kind import METRICS, RESULTS


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run: its folder, and if it has finished (False: a signal stopped it; the same call resumes).

    >>> run = hv.Run(folder=Path("runs/mine"), finished=True)
    >>> run.load().width
    32
    """

    folder: Path
    finished: bool

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl: step, loss, lr, ..."""
        return list(read_rows(self.folder / METRICS, "the measurements of this run, as it writes them"))

    @property
    def results(self) -> dict[str, Any]:
        """Return the content of results.json, scores included. Raises UserError if the run has not finished."""
        return read_json(self.folder / RESULTS, dict, "the results of a run, as it writes them at its end")

    def load(self) -> Any:
        """Return the model of this run, as `hv.load` does."""
        from hpm_video.api.model import load

        return load(self.folder)


def pretrain(  # noqa: PLR0913
    data: str | Path | Mapping[str, Any] | None = None,
    output: str | Path = "runs/pretrain",
    preset: str | list[str] | None = None,
    steps: int | None = None,
    *,
    config: str | Path | None = None,
    trackers: Sequence[Any] = (),
    progress: bool = False,
    **keys: Any,
) -> Run:
    """Pretrain an encoder on videos without labels, as `hpm-video pretrain` does; the same call resumes.

    data: data.root, or a mapping of data.* keys. output: the run folder. preset: one, or a list of one method and one size.
    steps: train.steps. config: a YAML file. keys: any other key, as a section (mask={"ratio": 0.8}) or dotted
    (**{"mask.ratio": 0.8}). trackers: `Tracker`s, or functions of step and values. progress: show the log.

    Raises UserError with the messages of the command.

    >>> run = hv.pretrain(data="videos", output="runs/new", steps=2, **tiny)
    >>> run.finished, [row["step"] for row in run.metrics]
    (True, [1, 2])
    """
    named = join_keys(keys, data_root=data, train_output=output, train_steps=steps)
    with showing(progress):
        return run_pretraining(None if config is None else Path(config), make_overrides(named, preset), trackers)


def run_pretraining(file: Path | None, overrides: Sequence[str], trackers: Sequence[Any] = ()) -> Run:
    """Pretrain with the keys of a YAML file and overrides. Raises UserError."""
    keys = list(overrides)
    check_keys(load_config, file, keys)
    from hpm_video.train.pretrain import pretrain as train
    from hpm_video.train.pretrain import pretrain_config
    from hpm_video.train.trackers import attached

    config = pretrain_config(file, keys)
    with attached(trackers):
        finished = train(config, _make_monitor(config))
    return Run(folder=Path(config.train.output), finished=finished)


def check_keys(load: Callable[..., Any], file: Path | None, keys: list[str]) -> None:
    """Raise UserError for wrong settings, before torch is imported."""
    found = load(file, keys, check=False)
    if found.init.weights is None:  # else the combinations depend on the weights
        load(file, keys)
    check_installed(found.train.trackers)


def _make_monitor(config: PretrainConfig) -> Any:
    """Return the kNN monitor of train.knn_clips; None if that is 0. Raises UserError if the data have no labels."""
    if not config.train.knn_clips:
        return None
    from hpm_video.data.splits import LABELS_HINT
    from hpm_video.evals.frozen.knn_monitor import make_knn_monitor

    monitor = make_knn_monitor(config, config.train.knn_clips)
    if monitor is None:
        raise UserError(
            f"train.knn_clips: {config.data.root} has no labels, no validation split or a single class; expected 0, or data "
            f"with both. {LABELS_HINT}"
        )
    return monitor


def finetune(  # noqa: PLR0913
    data: str | Path | Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    output: str | Path = "runs/finetune",
    steps: int | None = None,
    *,
    config: str | Path | None = None,
    trackers: Sequence[Any] = (),
    progress: bool = False,
    **keys: Any,
) -> Run:
    """Train a pretrained encoder on labels, then test it, as `hpm-video finetune` does; the same call resumes.

    weights: init.weights. The other arguments are those of `pretrain`. Scores of the test: `run.results["scores"]["test"]`.

    Raises UserError with the messages of the command.

    >>> run = hv.finetune("labelled", "runs/mine", "runs/tuned_new", steps=1, **tiny_tuning)
    >>> run.finished, "top1" in run.results["scores"]["test"]
    (True, True)
    """
    named = join_keys(keys, data_root=data, init_weights=weights, train_output=output, train_steps=steps)
    with showing(progress):
        run = run_finetuning(None if config is None else Path(config), make_overrides(named), trackers)
        if run.finished:
            from hpm_video.api.scores import run_test

            run_test(run.folder)
    return run


def run_finetuning(file: Path | None, overrides: Sequence[str], trackers: Sequence[Any] = ()) -> Run:
    """Fine-tune with the keys of a YAML file and overrides, without the test. Raises UserError."""
    keys = list(overrides)
    check_keys(load_finetune_config, file, keys)
    from hpm_video.train.finetune import finetune as train
    from hpm_video.train.finetune import finetune_config
    from hpm_video.train.trackers import attached

    config = finetune_config(file, keys)
    with attached(trackers):
        return Run(folder=Path(config.train.output), finished=train(config))

"""Measure kNN accuracy during pretraining: a cheap sign of better features, which the loss does not give."""

from collections.abc import Callable
from typing import Any

from torch import nn

from hpm_video.config import PretrainConfig
from hpm_video.data.source import Source
from hpm_video.data.splits import find_labelled
from hpm_video.evals.frozen.clips import Clips, load_clips
from hpm_video.evals.frozen.features import default_pooling, extract_features
from hpm_video.evals.frozen.knn import count_votes
from hpm_video.evals.metrics import Answers
from hpm_video.streams import KNN_CLIPS

Measure = Callable[[nn.Module, int], dict[str, float]]  # (student or encoder, step) -> metrics by name


class KnnMonitor:
    """Measure the kNN accuracy on labelled clips, which are decoded once and kept as uint8.

    It draws nothing from global random generators and changes neither modes nor weights. Under ZeRO-3 the forward pass is
    collective: all ranks must call it at the same step.
    """

    def __init__(self, config: PretrainConfig, train: Clips, validation: Clips) -> None:
        self.data, self.pooling = config.data, default_pooling(config)
        self.train, self.validation = train, validation

    def __call__(self, module: nn.Module, step: int) -> dict[str, float]:
        encoder: Any = getattr(module, "encoder", module)
        train, test = (extract_features(encoder, c, self.data, self.pooling) for c in (self.train, self.validation))
        votes = count_votes(train.values, train.labels, test.values)
        return {"held_out/knn": Answers(scores=votes, labels=test.labels).accuracy()}


def make_knn_monitor(config: PretrainConfig, num_clips: int) -> Measure | None:
    """Return a monitor with up to num_clips labelled clips of each split (training and validation), drawn by the seed.

    Return None if the data has no labels or no validation split, or if the drawn clips have a single class.
    """
    parts = find_labelled(config.data)
    if parts is None:
        return None
    clips = [_draw(source, config, num_clips) for source in parts]
    if len(set(clips[0].labels.tolist())) < 2 or min(clips[0].labels.min(), clips[1].labels.min()) < 0:
        return None
    return KnnMonitor(config, *clips)


def _draw(source: Source, config: PretrainConfig, num: int) -> Clips:
    rows = KNN_CLIPS.numpy(config.train.seed).permutation(len(source))[:num]
    return load_clips(source, config.data, sorted(rows.tolist()))

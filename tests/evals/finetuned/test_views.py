"""Views against indices and slices written out by hand; what is averaged against one pass for each view."""

import json

import numpy as np
import pytest
import torch

from hpm_video.data.source import open_source
from hpm_video.data.transforms import Normalise
from hpm_video.evals.finetuned import views as module
from hpm_video.evals.finetuned.views import ViewClassifier, ViewDataset, average_views, to_probabilities
from hpm_video.types import UserError
from hpm_video.weights.load import load_classifier

LEFT = (0, 6, 12)  # three crops of 16 in 28 pixels


def open_views(trained) -> tuple[ViewDataset, ViewClassifier, torch.nn.Module]:
    config, model, _ = load_classifier(trained.run)
    dataset = ViewDataset(open_source(config.data, "validation"), config.data, config.test)
    return dataset, ViewClassifier(model, config, torch.device("cpu")), model


def segments(count: int, clip: int, num_clips: int) -> list[int]:
    return [int((part + (clip + 0.5) / num_clips) * count / 4) for part in range(4)]


def dense(count: int, clip: int, num_clips: int) -> list[int]:
    start = (count - 7) * clip // (num_clips - 1)
    return [start + 2 * frame for frame in range(4)]


@pytest.mark.parametrize(("rule", "indices", "num_clips"), [("segments", segments, 2), ("dense", dense, 3)])
def test_views_are_the_frames_and_crops_they_should_be_from_one_reading(
    trained, monkeypatch, rule, indices, num_clips
) -> None:
    one = trained(data__sampling=rule, test__num_clips=num_clips)
    dataset = open_views(one)[0]
    assert (dataset.num_clips, dataset.num_crops, dataset.num_views) == (num_clips, 3, 3 * num_clips)
    read, calls = module.read_item, []
    monkeypatch.setattr(module, "read_item", lambda *given: calls.append(given[0].name) or read(*given))
    for row, frames in enumerate(one.frames):
        samples = dataset.__getitems__([(row, 0)] * dataset.num_views)
        expected = [
            frames[indices(len(frames), clip, num_clips)][:, :, left : left + 16]
            for clip in range(num_clips)
            for left in LEFT
        ]
        assert len(samples) == len(expected) and {s.label for s in samples} == {one.labels[row]}
        for sample, picture in zip(samples, expected, strict=True):
            assert np.array_equal(sample.clip.permute(1, 2, 3, 0).numpy(), picture)
    assert calls == [f"{n}.mkv" for n in range(7)]


def test_numbers_of_views_follow_the_data_set(trained) -> None:
    one = trained()
    config = load_classifier(one.run)[0]
    for name, expected in (("kinetics400", (5, 3)), ("ssv2", (2, 3)), ("imagenet1k", (1, 1)), ("mine", (2, 3))):
        header = json.loads(
            (one.root / "manifest.json").read_text()
        )  # without a protocol, as earlier versions wrote it
        (one.root / "manifest.json").write_text(json.dumps(header | {"name": name}))
        dataset = ViewDataset(open_source(config.data, "validation"), config.data, config.test)
        assert (dataset.num_clips, dataset.num_crops) == expected


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_the_answer_is_the_mean_over_views_that_are_seen_alone(trained, average) -> None:
    one = trained(test__average=average)
    dataset, classifier, model = open_views(one)
    views, _ = dataset.read_views(3)
    normalise = Normalise(dataset.config)
    with torch.no_grad():
        single = torch.cat([model(normalise(view[None])) for view in views]).double()
    expected = (single.softmax(1) if average == "probabilities" else single).mean(0)
    assert len(views) == 6 and single.std(0).min() > 1e-3  # six views that differ, in passes of 4 and 2
    assert (classifier(views) - expected).abs().max() < 1e-6
    shares = to_probabilities(classifier(views), average)
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(shares.double(), expected if average == "probabilities" else expected.softmax(0), atol=1e-6)


def test_averages_differ_where_one_view_is_sure() -> None:
    logits = torch.tensor([[10.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]])
    assert average_views(logits, "probabilities").argmax() == 1 and average_views(logits, "logits").argmax() == 0


def test_values_that_are_not_finite_are_told(trained) -> None:
    dataset, classifier, model = open_views(trained())
    with torch.no_grad():
        model.head.weight[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        classifier(dataset.read_views(0)[0])


def test_an_unreadable_video_is_not_replaced(trained) -> None:
    one = trained()
    one.file(2).write_bytes(b"")
    samples = open_views(one)[0].__getitems__([(2, 0)] * 6)
    assert [len(s.failures) for s in samples] == [1, 0, 0, 0, 0, 0] and samples[0].row == 2
    assert samples[0].failures[0].path == "2.mkv" and "empty" in samples[0].failures[0].reason

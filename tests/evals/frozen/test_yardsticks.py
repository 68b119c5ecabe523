"""Supervised networks of pytorchvideo beside a run. Their weights are made up and lie where torch.hub keeps what it has fetched."""

import argparse
import copy
import dataclasses
import importlib
import json

import pytest
import torch

from hpm_video.cli import main
from hpm_video.commands import probe
from hpm_video.config.yardsticks import YARDSTICKS
from hpm_video.evals.frozen import yardsticks
from hpm_video.evals.frozen.yardsticks import SupervisedEncoder, fetch_weights, load_network
from hpm_video.types import UserError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub("x3d_s"): write weights of a network as the zoo does; return the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"

    def make(name: str) -> torch.nn.Module:
        module = importlib.import_module(YARDSTICKS[name].load().__module__)
        network = YARDSTICKS[name].load()().eval()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / module.checkpoint_paths[name].rpartition("/")[2]
        torch.save({"model_state": network.state_dict(), "cfg": "text"}, file)
        return network

    return make


def test_the_command_offers_all_of_them() -> None:
    parser = argparse.ArgumentParser()
    probe.add_arguments(parser)
    (option,) = [action for action in parser._actions if action.dest == "yardstick"]
    assert set(option.choices or ()) == set(YARDSTICKS) == {"x3d_s", "slow_r50", "mvit_base_16x4"}


@pytest.mark.parametrize(
    "name", ["x3d_s", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slow_r50", "mvit_base_16x4"))]
)
@torch.no_grad()
def test_the_classifier_of_the_features_gives_the_answers_of_the_network(hub, name) -> None:
    network, row = hub(name), YARDSTICKS[name]
    head = network.head if hasattr(network, "head") else network.blocks[-1]
    classifier, activation = copy.deepcopy(head.proj), head.activation
    clip = torch.randn(2, 3, row.num_frames, row.side_px, row.side_px)
    head.activation = None
    expected = network(clip)
    encoder = SupervisedEncoder(name, load_network(name).eval())
    features = encoder(clip)
    assert features.shape == (2, 1, row.width) and encoder.num_tokens == 1 and activation is not head.proj
    torch.testing.assert_close(classifier(features[:, 0]), expected, rtol=1e-3, atol=1e-4)


class Small(torch.nn.Module):
    """A network in the form of the zoo's: the last block has a classifier and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        head = torch.nn.Module()
        head.proj, head.activation = torch.nn.Linear(6, 400), torch.nn.Softmax(1)
        self.blocks = torch.nn.ModuleList([head])

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.cat([clip.mean((2, 3, 4)), clip.std((2, 3, 4))], dim=1)


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_probe_scores_one_beside_the_run(real, hub, labelled_set, make_run, monkeypatch, capsys) -> None:
    if real:
        hub("x3d_s")
    else:
        monkeypatch.setitem(YARDSTICKS.rows, "x3d_s", dataclasses.replace(YARDSTICKS["x3d_s"], width=6))
        monkeypatch.setattr(yardsticks, "load_network", lambda name: Small())
    run, _ = make_run(data__root=str(labelled_set))
    known = {"kind": "pretrain", "config": {}, "seed": 0, "hours": 0.1, "figures": {}, "scores": {}}
    (run / "results.json").write_text(json.dumps({"format": "hpm-video results", "version": 1, **known}))
    words = ["probe", str(run), "--head", "linear", "--yardstick", "x3d_s"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert (
        "features of x3d_s, a network of pytorchvideo" in told
        and "pooling: the network's own" in told
        and "num_test: 12\n" in told
    )
    scores = json.loads((run / "results.json").read_text())["scores"]
    assert set(scores) == {"linear", "knn_x3d_s", "linear_x3d_s"}
    (file,) = (run / "scores").glob("linear-mean-x3d_s-*.json")
    record = json.loads(file.read_text())
    assert record["yardstick"] == "x3d_s" and record["data"]["frame_size_px"] == [182, 182]
    assert record["data"]["mean"] == [0.45] * 3 and record["top1"] == scores["linear_x3d_s"]["top1"]
    parts = sorted((run / "features").rglob("part-*"))
    times = [part.stat().st_mtime_ns for part in parts]
    assert main(words) == 0  # all features are found again
    assert times == [part.stat().st_mtime_ns for part in sorted((run / "features").rglob("part-*"))]


def test_weights_that_are_not_there_or_of_another_network_are_named(hub, tmp_path) -> None:
    address = "http://127.0.0.1:9/zoo/X3D_S.pyth"
    with pytest.raises(UserError, match=r"127.0.0.1:9.*cannot be fetched.*put the file at .*checkpoints/X3D_S.pyth"):
        fetch_weights(address)
    hub("x3d_s")
    file = fetch_weights(address)
    torch.save({"model_state": {"a": torch.zeros(2)}}, file)
    with pytest.raises(UserError, match=r"X3D_S.pyth: not the weights of x3d_s .*delete it to fetch it again"):
        load_network("x3d_s")

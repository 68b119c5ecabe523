"""Twenty steps of transformers' VideoMAE and of ours from the same weights, on the same clips and masks: losses, norms of the
gradients and the weights at the end."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from hpm_video.weights.convert_in import Said, convert, student_weights

HOME = Path(__file__).parents[2] / "benchmarks"
KEYS = ["model.width=32", "model.depth=2", "model.num_heads=2", "model.decoder_width=16", "model.decoder_heads=2"]
KEYS += ["mask.ratio=0.75", "model.patch_px=8", "preset=videomae", "optim.weight_decay=0.05", "engine.precision=fp32"]
SAID = Said(num_heads=2, num_frames=4, frame_size_px=(32, 32), decoder_heads=2)


def test_twenty_steps(monkeypatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(HOME))
    sys.modules.pop("peers", None)
    peers = runpy.run_path(str(HOME / "peers.py"))
    for name in ("HuggingFaceStep", "OurStep"):
        monkeypatch.setitem(peers[name].__call__.__globals__, "LR", 2e-3)
    config = peers["make_config"]("ti", 4, 32, 3, KEYS)
    theirs, ours = (peers[name](config, torch.device("cpu")) for name in ("HuggingFaceStep", "OurStep"))
    ours.engine.module.load_state_dict(student_weights(convert(theirs.engine.module.state_dict(), SAID)), strict=True)
    rows = []
    for _ in range(20):
        losses = float(ours()), float(theirs())
        rows.append((losses, (ours.engine.norm, theirs.engine.norm)))
    for losses, norms in rows:
        assert losses[0] == pytest.approx(losses[1], abs=2e-4) and norms[0] == pytest.approx(norms[1], rel=2e-3)
    assert rows[-1][0][0] < 0.98 * rows[0][0][0]  # they did learn
    expected = student_weights(convert(theirs.engine.module.state_dict(), SAID))
    for name, weight in ours.engine.module.state_dict().items():
        if not name.endswith("qkv.bias"):  # theirs has no bias of the keys
            torch.testing.assert_close(weight, expected[name], atol=2e-3, rtol=1e-2, msg=name)

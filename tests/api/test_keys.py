"""Keys as arguments: sections, dotted names, presets, and any value that a configuration takes."""

from pathlib import Path

import numpy as np

from hpm_video.api.keys import join_keys, make_overrides
from hpm_video.config import load_config


def test_arguments_become_the_keys_of_a_configuration() -> None:
    keys = {
        "data": {"root": Path("a b/ü: #😀"), "frame_size_px": (64, 96), "num_workers": np.int64(3), "fps": None},
        "mask.ratio": np.float32(0.5),
        "engine": {"compile": True},
    }
    config = load_config(
        None, make_overrides(join_keys(keys, train_output="out", train_steps=None), ["videomae", "tiny"])
    )
    assert config.data.root == "a b/ü: #😀" and config.data.frame_size_px == [64, 96] and config.data.num_workers == 3
    assert config.data.fps is None and config.mask.ratio == 0.5 and config.engine.compile is True
    assert config.mask.mode == "random" and config.model.size == "ti" and config.train.output == "out"
    assert config.train.steps == 300  # of the preset


def test_data_is_a_path_or_its_section() -> None:
    assert join_keys({}, data_root="videos", init_weights=None) == {"data.root": "videos"}
    found = make_overrides(join_keys({"data.fps": 8}, data_root={"root": "x", "fps": 4}, train_steps=3), "hpm")
    assert found == ["preset=hpm", 'data.root="x"', "data.fps=4", "train.steps=3", "data.fps=8"]

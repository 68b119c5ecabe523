"""Make clips of the six motions of the synthetic set: the only kind from which a student learns in a CPU minute."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from arena_clips import NUM_FRAMES, ROOT, SIDE, Material, random_stream


def load_recipe() -> ModuleType:
    """Import the recipe of the synthetic set by its path: `datasets` is not a package."""
    spec = importlib.util.spec_from_file_location("synthetic_recipe", ROOT / "datasets" / "synthetic" / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_motions(kind: str, split: str, seed: int, count: int, folder: Path | None) -> Material:
    """Return clips of one shape each. Class "motion": right, left, down, up, closer, away; chance is 1/6."""
    recipe, rng = load_recipe(), random_stream(kind, split, seed)
    labels = rng.integers(len(recipe.TEMPLATES), size=count)
    clips = np.stack([recipe.draw_clip(int(label), rng, NUM_FRAMES, SIDE) for label in labels])
    return Material(torch.from_numpy(clips), {}, {"motion": labels})

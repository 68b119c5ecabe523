"""Random streams: every one has a name, and no two begin alike."""

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hpm_video import streams
from hpm_video.streams import IMAGES, Stream, seeded

CPU = torch.device("cpu")
LIBRARY = Path(streams.__file__).parent
NUMPY = ("SAMPLE", "HELD_OUT", "ORDER", "VALIDATION_SHARE", "SHARD_ORDER", "WINDOW_ORDER", "KNN_CLIPS")
NEW = ("IMAGE_STEPS", "IMAGES", "PACKING", "TAR_ORDER", "PROBE_LABELS")
TORCH = ("MASKS", "DROP_PATH", "ERASE_BOX", "ERASE_NOISE", "MIX")
MAKERS = {"default_rng", "Generator", "manual_seed", "SeedSequence", "Random", "RandomState", "seeded"}
# what draws from fixed numbers, or from a seed that a score alone has
ALONE = {
    "evals/metrics.py",
    "evals/frozen/clips.py",
    "evals/frozen/feature_file.py",
    "evals/frozen/linear_probe.py",
    "evals/frozen/attentive_probe.py",
    "weights/exporters/check.py",
}
FIXED = {"data/loader.py", "report/pictures.py", "api/model.py"}  # held-out, pictured and given clips: default_rng(0)


def named() -> dict[str, Stream]:
    return {name: value for name, value in vars(streams).items() if isinstance(value, Stream)}


def calls_of(file: Path) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) in MAKERS]


def test_every_draw_of_a_run_is_from_a_named_stream() -> None:
    for file in LIBRARY.rglob("*.py"):
        name = str(file.relative_to(LIBRARY))
        if name == "streams.py" or name in ALONE:
            continue
        for call in calls_of(file):
            fixed = name in FIXED and isinstance(call.args[0], ast.Constant)
            assert fixed, (
                f"{name}:{call.lineno} makes a generator of its own; expected a stream of hpm_video/streams.py"
            )


def test_every_stream_is_used_by_one_file() -> None:
    users = {name: set() for name in named()}
    for file in LIBRARY.rglob("*.py"):
        if file.name == "streams.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in users:
                users[node.value.id].add(file)
    twice = {"SAMPLE": 2}  # interop gives pytorchvideo's data set the clips of ours
    assert {name: len(files) for name, files in users.items()} == dict.fromkeys(users, 1) | twice


def test_each_stream_is_listed_here() -> None:
    assert set(named()) == {*NUMPY, *NEW, *TORCH, "RAND_AUGMENT"}


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3])
def test_new_streams_share_no_numbers_with_any_other(seed) -> None:
    numbers = [(), *itertools.product(range(9)), *itertools.product(range(4), repeat=2)]
    drawn = {}
    for name, stream in named().items():
        for given in numbers if name in (*NUMPY, *NEW) else []:
            drawn.setdefault(int(stream.numpy(seed, *given).integers(2**63)), []).append((name, given))
    for users in drawn.values():
        others = {name for name, _ in users}
        assert others <= set(NUMPY) or len(others) == 1, users


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_old_streams_begin_alike_only_where_they_say_so(seed) -> None:
    """NumPy takes [seed, 2] and [seed, 2, 0] for the same numbers."""
    known = {frozenset({"SAMPLE", other}) for other in ("HELD_OUT", "SHARD_ORDER", "WINDOW_ORDER", "KNN_CLIPS")}
    known.add(frozenset({"SAMPLE", "ORDER", "VALIDATION_SHARE"}))
    usual = {"SAMPLE": [(p,) for p in range(500)], "HELD_OUT": [()], "VALIDATION_SHARE": [()], "KNN_CLIPS": [()]}
    usual |= {"ORDER": [(e,) for e in range(9)], "SHARD_ORDER": [(e,) for e in range(9)]}
    usual |= {"WINDOW_ORDER": list(itertools.product(range(5), repeat=2))}
    drawn: dict[int, set[str]] = {}
    for name, all_given in usual.items():
        for given in all_given:
            drawn.setdefault(int(named()[name].numpy(seed, *given).integers(2**63)), set()).add(name)
    assert {frozenset(users) for users in drawn.values() if len(users) > 1} <= known


def test_torch_streams_are_unlike_each_other() -> None:
    seeds: dict[int, set[str]] = {}
    for name in TORCH:
        for given in itertools.product(
            range(3, 6), range(1, 20), *([] if name in ("MASKS", "DROP_PATH") else [range(9)])
        ):
            seeds.setdefault(named()[name].torch(CPU, *given).initial_seed(), set()).add(name)
    assert all(len(users) == 1 for users in seeds.values())


def test_images_have_a_seed_of_their_own() -> None:
    seeds = {IMAGES.seed(seed) for seed in range(100)}
    assert len(seeds) == 100 and not seeds & set(range(1000)) and IMAGES.seed(5) == IMAGES.seed(5)


def test_the_first_numbers_are_those_of_before() -> None:
    assert streams.ORDER.numpy(3, 7).integers(99) == np.random.default_rng([3, 2, 7]).integers(99)
    assert streams.SAMPLE.numpy(3, 7).integers(99) == np.random.default_rng([3, 7]).integers(99)
    assert streams.MASKS.torch(CPU, 3, 7).initial_seed() == seeded(CPU, 3, 7).initial_seed()
    assert streams.MIX.torch(CPU, 3, 7, 2).initial_seed() == seeded(CPU, 3, 7, 2, 3).initial_seed()


def test_seeds_and_steps_do_not_collide() -> None:
    assert len({seeded(CPU, seed, step).initial_seed() for seed in range(20) for step in range(500)}) == 20 * 500


def test_neighbouring_seeds_are_unrelated() -> None:
    draws = torch.stack([torch.rand(2000, generator=seeded(CPU, 0, step)) for step in range(8)])
    assert (torch.corrcoef(draws) - torch.eye(8)).abs().max() < 0.12  # 5 standard errors


def test_the_same_numbers_draw_the_same() -> None:
    assert torch.equal(*(torch.rand(9, generator=seeded(CPU, 1, 2)) for _ in range(2)))

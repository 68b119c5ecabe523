"""What is recorded under each name, and how it is computed.

An entry has up to three parts, which differ in where they must be equal:

| part | content | on a machine with the recorded numerics | elsewhere |
|---|---|---|---|
| exact | whole numbers, names, shapes, hashes of whole numbers | equal | equal |
| floats | losses, norms, scores, as float.hex | equal, bit for bit | within `tolerance` |
| bits | hashes of floats and of what depends on them | equal | not compared |
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cases
import numpy as np
import runs
import torch
from safetensors.torch import load_file
from torch import Tensor

# On a machine with other numerics, about twice what torch's plainest kernels (ATEN_CPU_CAPABILITY=default) differ from AVX2.
TIGHT = 1e-3  # relative, and absolute below 1: scores, and losses without masks or ranks that depend on the last bits
RANKED = 0.03  # losses, if almost equal difficulties choose the masks or almost equal patch losses are ranked
UNSTEADY = 0.2  # norms of the gradient, and rank correlations of a few units
NO_RANKS = ("mode=random", "preset=random", "preset=videomae")
NOT_RECORDED = ("step", "seconds", "clips_per_s", "data_wait_share", "memory_gib")
Entry = dict[str, dict[str, Any]]


def digest(values: Iterable[Any]) -> str:
    """Hash tensors with their type and shape, and anything else by its text."""
    whole = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            whole.update(f"{value.dtype} {tuple(value.shape)}".encode())
            whole.update(value.detach().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        else:
            whole.update(repr(value).encode())
    return whole.hexdigest()[:32]


def digest_named(tensors: Mapping[str, Tensor]) -> str:
    return digest(part for name in sorted(tensors) for part in (name, tensors[name]))


def shapes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return name, type and shape of each tensor, in their order."""
    return [f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items()]


def sort_numbers(values: Mapping[str, Any], entry: Entry, prefix: str = "") -> None:
    """Put floats under `floats`, as hexadecimal text, and everything else under `exact`."""
    for name, value in values.items():
        if isinstance(value, list) and value and all(isinstance(v, float) for v in value):
            entry["floats"][f"{prefix}{name}"] = " ".join(v.hex() for v in value)
        elif isinstance(value, float):
            entry["floats"][f"{prefix}{name}"] = value.hex()
        else:
            entry["exact"][f"{prefix}{name}"] = value


def read_run(run: Path) -> Entry:
    """Return what a run logged at each step, and hashes of the tensors of its last checkpoint."""
    entry: Entry = {"exact": {}, "floats": {}, "bits": {}}
    logged: dict[str, list[Any]] = {}
    for line in runs.metrics_of(run):
        for name, value in line.items():
            if name not in NOT_RECORDED:
                logged.setdefault(name, []).append(value)
    sort_numbers(logged, entry)
    last = max((run / "checkpoints").iterdir())
    entry["exact"]["checkpoint"] = last.name
    for file in sorted(last.glob("*.safetensors")):
        tensors = load_file(file)
        entry["exact"][f"shapes of {file.stem}"] = digest(sorted(shapes(tensors)))
        entry["bits"][file.stem] = digest_named(tensors)
    return entry


def train(command: str, base: str, keys: str, folder: Path) -> Entry:
    runs.command(command, *base.split(), *keys.split(), f"train.output={folder / 'run'}")
    return read_run(folder / "run")


def resume(command: str, half: str, folder: Path) -> Entry:
    """Continue the run that an earlier version stopped after step 3, with the settings that it wrote."""
    run = folder / "run"
    shutil.copytree(cases.OLD / half, run)
    runs.command(command, "--config", run / "config.yaml", cases.VIDEOS, *weights_of(half), f"train.output={run}")
    return read_run(run)


def weights_of(half: str) -> list[str]:
    return [f"init.weights={cases.OLD / 'pretrained'}"] if half == "tuned_half" else []


def score(run: str, words: list[str], folder: Path) -> Entry:
    """Score a finished run of an earlier version on its labelled videos."""
    shutil.copytree(cases.OLD / run, folder / "run")
    runs.command(words[0], folder / "run", *words[1:], cases.VIDEOS, "data.num_workers=0")
    entry: Entry = {"exact": {}, "floats": {}}
    for name, scores in runs.scores_of(folder / "run").items():
        sort_numbers(scores, entry, f"{name}.")
    return entry


def features(folder: Path) -> Entry:
    """Export the features of files with the encoder of an earlier version."""
    out = folder / "features.npz"
    runs.command("features", cases.OLD / "videos" / "left", "--run", cases.OLD / "pretrained", "--out", out)
    with np.load(out, allow_pickle=False) as file:
        found = {name: file[name] for name in sorted(file.files)}
    tensors = {name: torch.from_numpy(a) for name, a in found.items() if a.dtype.kind == "f"}
    means = {f"mean of {name}": float(t.double().abs().mean()) for name, t in tensors.items()}
    entry: Entry = {"exact": {"shapes": sorted(shapes(tensors))}, "floats": {}, "bits": {"all": digest_named(tensors)}}
    sort_numbers(means, entry)
    return entry


def loaded_encoder(folder: Path) -> Entry:
    tokens = runs.encode(cases.OLD / "pretrained", made_clip(2, 4))
    entry: Entry = {"exact": {"shape": list(tokens.shape)}, "floats": {}, "bits": {"tokens": digest([tokens])}}
    sort_numbers({"some tokens": tokens[0, :4, :4].flatten().tolist()}, entry)
    return entry


def made_clip(num_clips: int, num_frames: int, size_px: int = 16) -> Tensor:
    """Make clips of whole numbers, the same on every machine, scaled to about one."""
    rng = np.random.default_rng(num_frames)
    pixels = rng.integers(0, 256, (num_clips, 3, num_frames, size_px, size_px))
    return torch.from_numpy(pixels).float() / 64 - 2


def batches(source: str, repeats: int, keys: str, folder: Path) -> Entry:
    """Read 50 batches of 2 clips; two reading processes must give the same as none."""
    root = "" if source == "images" else f"data.root={cases.SOURCES[source]}"
    keys = f"{cases.PRETRAIN} {root} data.repeats={repeats} optim.batch_size=2 {keys}"
    found = []
    for num_workers in (0, 2):
        read = list(runs.read_batches(keys, 50, num_workers))
        rows = [(batch.label, batch.row, batch.failed) for batch in read]
        found.append((rows, [digest([batch.clip]) for batch in read]))
    (rows, clips), (rows_of_workers, clips_of_workers) = found
    assert (rows, clips) == (rows_of_workers, clips_of_workers), "reading processes give other batches"
    exact = {"first rows": rows[0][1], "failures": sum(len(row[2]) for row in rows), "rows": digest(rows)}
    return {"exact": exact, "bits": {"clips": digest(clips)}}


def ranks(folder: Path) -> Entry:
    """Read the batches of rank 1 of 2."""
    keys = f"{cases.PRETRAIN} data.root={cases.SOURCES['shards']} data.repeats=2"
    read = list(runs.read_batches(keys, 20, 0, rank=1, world_size=2))
    return {
        "exact": {"rows": digest((b.label, b.row) for b in read)},
        "bits": {"clips": digest(b.clip for b in read)},
    }


def masks(mode: str, unit: str, folder: Path) -> Entry:
    """Mask clips as steps 0, 1, 5 and 9 of 10 do. Masks that no difficulty chooses are the same on every machine."""
    clip = made_clip(4, 8)
    keys = f"{cases.PRETRAIN} {unit} data.num_frames=8 mask.mode={mode} mask.masks_per_clip=2"
    found = list(runs.masks_of_steps(keys, clip, [0, 1, 5, 9], 10))
    part = "bits" if mode in ("hpm", "inverted") else "exact"
    return {part: {name: digest(step[name] for step in found) for name in found[0]}}


def choices(folder: Path) -> Entry:
    """Choose units by whole-number difficulties with many ties, and the decoded tokens of them."""
    rng, exact = np.random.default_rng(3), {}
    units = runs.units_of((4, 4, 4), (2, 2, 1))  # [16, 4]
    difficulty = torch.from_numpy(rng.integers(0, 4, (64, 16))).float()
    keys = torch.from_numpy(rng.permuted(np.tile(np.arange(16), (64, 1)), axis=1)).float() / 16
    exact["units"] = digest(runs.units_of((4, 6, 8), block) for block in ((4, 1, 1), (1, 1, 1), (2, 3, 2)))
    for mode, num_hard in (("random", 0), ("hpm", 0), ("hpm", 3), ("hpm", 12), ("inverted", 6), ("inverted", 12)):
        masked = runs.choose(mode, difficulty, keys, 12, num_hard)
        exact[f"{mode} {num_hard}"] = digest([masked])
        for part in ((12, 2), (12, 1), (12, 3)):
            name = f"{mode} {num_hard} decoded {part[0]} x {part[1]}"
            exact[name] = digest([runs.decoded_of(masked, units, 12, part, keys)])
    return {"exact": exact}


def first_weights(make: Callable[[], torch.nn.Module], named: bool, folder: Path) -> Entry:
    """Hash the weights that a run starts from, in the order in which they are made."""
    model = make()
    tensors, order = model.state_dict(), [name for name, _ in model.named_parameters()]
    listed = shapes(tensors)
    exact = {"tensors": listed if named else digest(listed), "order": digest(order)}
    return {
        "exact": exact,
        "bits": {name: digest([tensors[name]]) for name in order} if named else {"all": digest_named(tensors)},
    }


def positions(keys: str, folder: Path) -> Entry:
    tables = runs.position_tables(f"{cases.PRETRAIN} {keys}")
    return {"exact": {"shapes": shapes(tables)}, "bits": {name: digest([table]) for name, table in tables.items()}}


def make_entries() -> dict[str, Callable[[Path], Entry]]:
    """Return a function of a temporary folder for each name."""
    found: dict[str, Callable[[Path], Entry]] = {}
    for name, keys in cases.PRETRAINING.items():
        found[f"pretrain/{name}"] = partial(
            train, "pretrain", cases.WEIGHTS if name == "from-weights" else cases.PRETRAIN, keys
        )
    for name, keys in cases.FINETUNING.items():
        found[f"finetune/{name}"] = partial(
            train, "finetune", cases.WEIGHTS if "init.weights" in keys else cases.FINETUNE, keys
        )
    for source, repeats in product(cases.SOURCES, (1, 4)):
        found[f"batches/{source}-{repeats}"] = partial(batches, source, repeats, "")
    for name, keys in cases.SAMPLING.items():
        found[f"batches/{name}"] = partial(batches, "images" if name == "images" else "manifest", 1, keys)
    found["batches/rank-1-of-2"] = ranks
    units = {"tube": cases.TUBE, "token": cases.TOKEN, "block": "mask.unit=block mask.block=[2,2,1]"}
    for mode, unit in product(("hpm", "predictor_only", "random", "inverted"), units):
        found[f"masks/{mode}-{unit}"] = partial(masks, mode, units[unit])
    found["masks/ties"] = choices
    for name, keys in cases.ARCHITECTURES.items():
        make = partial(runs.first_student, f"{cases.PRETRAIN} {keys}")
        found[f"weights/student-{name}"] = partial(first_weights, make, name == "default")
    for name, keys in cases.CLASSIFIERS.items():
        make = partial(runs.first_classifier, f"{cases.FINETUNE} {keys}", 3)
        found[f"weights/classifier-{name}"] = partial(first_weights, make, name == "mean")
    for name, keys in cases.POSITIONS.items():
        found[f"positions/{name}"] = partial(positions, keys)
    found["old/resume-pretrained"] = partial(resume, "pretrain", "pretrained_half")
    found["old/resume-tuned"] = partial(resume, "finetune", "tuned_half")
    found["old/scores"] = partial(score, "pretrained", ["score"])
    found["old/probe"] = partial(score, "pretrained", ["probe", "--head", "attentive", "--epochs", "2"])
    found["old/test"] = partial(score, "tuned", ["test", "test.num_clips=2", "test.num_crops=3"])
    found["old/features"] = features
    found["old/encoder"] = loaded_encoder
    return found


ENTRIES = make_entries()


def is_quick(name: str) -> bool:
    """Return whether the default suite computes this entry: all tensors and old files, and some runs and batches."""
    return name in cases.QUICK or name.split("/")[0] not in ("pretrain", "finetune", "batches")


def tolerance(name: str, key: str) -> float:
    """Return by how much a float of an entry may differ on a machine with other numerics."""
    if key == "grad_norm" or "rank_correlation" in key:
        return UNSTEADY
    group, case = name.split("/")
    ranks = group == "pretrain" and not any(words in cases.PRETRAINING[case] for words in NO_RANKS)
    return RANKED if ranks or name == "old/resume-pretrained" else TIGHT


def compute(name: str) -> Entry:
    """Compute an entry with one thread, from the same state of torch's own generator each time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return ENTRIES[name](Path(folder))
    finally:
        torch.set_num_threads(threads)

"""Remembered losses: through crops, for any split of a batch, in whole runs, and that they tell which units are hard."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.multiprocessing import get_context

from hpm_video.cli import main
from hpm_video.config import DataConfig
from hpm_video.data.transforms import make_transform
from hpm_video.method.difficulty.crops import shared_lengths
from hpm_video.method.difficulty.memory import LEAST_LOSS, MOMENTUM, LossTable
from hpm_video.method.objectives import rank_correlation
from hpm_video.method.step import PretrainStep
from hpm_video.models.student import build_student
from hpm_video.preprocess.encode import write_video
from hpm_video.preprocess.pack import pack
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.types import Batch, BatchSlice

CPU, NAN = torch.device("cpu"), float("nan")
WHOLE, MIRRORED = [0.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]
MEMORY = {"mask__difficulty": "memory", "mask__hard_share_start": 0.5, "mask__hard_share_end": 0.5}


def read(table: LossTable, sample: int, crop: list[float]) -> Tensor:
    return table.read(torch.tensor([sample]), shared_lengths(torch.tensor([crop]), table.grid))[0].float()


def write(table: LossTable, samples: list[int], crops: list[list[float]], losses: Tensor) -> None:
    table.write(torch.tensor(samples), torch.tensor(crops), losses)


def test_a_hard_place_is_found_again_through_another_crop() -> None:
    """A quarter of the frame is cut out; its top left unit is hard. In the mirrored frame that is at the right."""
    table = LossTable(3, (1, 4, 4), CPU)
    losses = torch.zeros(1, 16)
    losses[0, 0] = 1.6  # 0.1 above the mean, so the others hold -0.1
    write(table, [1], [[0.5, 0.0, 0.5, 0.5, 0.0]], losses)  # 4 units in each cell
    hard = torch.zeros(4, 4)
    hard[2:, :2] = -0.1
    hard[2, 0] = (1.5 - 3 * 0.1) / 4
    torch.testing.assert_close(read(table, 1, WHOLE).view(4, 4), hard, atol=1e-3, rtol=0)
    torch.testing.assert_close(read(table, 1, MIRRORED).view(4, 4), hard.flip(1), atol=1e-3, rtol=0)
    lower = read(table, 1, [0.5, 0.25, 0.5, 0.75, 1.0]).view(4, 4)  # 3 of 4 columns, mirrored: the hard cell is outside
    torch.testing.assert_close(lower[:, 3], torch.full((4,), -0.1), atol=1e-3, rtol=0)
    assert not read(table, 0, WHOLE).any() and not read(table, 2, MIRRORED).any()  # never seen: average


def test_visits_are_averaged_and_compare_at_any_time() -> None:
    """The second visit sees the hard half alone, of a student whose losses have halved: nothing is new to the table."""
    table, levels = LossTable(1, (1, 2, 2), CPU), torch.tensor([[1.0, 0.5, -0.5, -1.0]])
    write(table, [0], [WHOLE], levels + 3)
    torch.testing.assert_close(read(table, 0, WHOLE), levels[0], atol=1e-3, rtol=0)
    hard = torch.tensor([[1.0, 0.5, NAN, NAN]])
    write(table, [0], [WHOLE], hard - np.log(2))
    torch.testing.assert_close(read(table, 0, WHOLE), levels[0], atol=1e-3, rtol=0)
    write(table, [0], [WHOLE], torch.tensor([[2.0, 0.0, NAN, NAN]]))  # 0.75 above and below what is expected
    kept = torch.tensor([0.5, -0.5]) * (1 - MOMENTUM) * 1.5
    torch.testing.assert_close(read(table, 0, WHOLE)[:2] - levels[0, :2], kept, atol=1e-3, rtol=0)


def test_several_clips_of_a_sample_are_averaged_in_any_order() -> None:
    losses = torch.randn(5, 8)
    losses[torch.rand(5, 8) < 0.3] = NAN
    crops = [[0.0, 0.0, 1.0, 0.5, 0.0], WHOLE, [0.5, 0.5, 0.5, 0.5, 1.0], MIRRORED, [0.1, 0.2, 0.7, 0.8, 1.0]]
    samples, tables = [2, 0, 2, 1, 2], []
    for order in ([0, 1, 2, 3, 4], [4, 2, 3, 0, 1]):
        table = LossTable(3, (2, 2, 2), CPU)
        for _ in range(2):
            write(table, [samples[i] for i in order], [crops[i] for i in order], losses[order])
        tables.append(table.cells)
    torch.testing.assert_close(*tables, atol=1e-3, rtol=0)
    one = LossTable(1, (1, 2, 2), CPU)
    write(one, [0, 0], [WHOLE, WHOLE], torch.tensor([[1.0, -1.0, NAN, NAN], [NAN, -2.0, 2.0, NAN]]))
    torch.testing.assert_close(one.cells[0].float(), torch.tensor([1.0, -1.5, 2.0, 0.0]), atol=1e-3, rtol=0)


def step_of(config, num_samples: int) -> tuple[PretrainStep, PlainEngine]:
    torch.manual_seed(0)
    student = build_student(config)
    step = PretrainStep(config, student, CPU, num_samples)
    assert step.teacher is None and student.predictor is None
    return step, PlainEngine(student, config, CPU)


def pass_of(step: PretrainStep, engine: PlainEngine, clip: Tensor, samples: Tensor, crops: Tensor, ranks=(0, 1, 1)):
    """Global steps of 8 clips without updates of the weights, as this rank sees them. ranks: (own, number, rounds)."""
    rank, world_size, rounds = ranks
    micro = 8 // (world_size * rounds)
    with torch.no_grad():
        for now in range(3):
            for round in range(rounds):
                start = (round * world_size + rank) * micro
                own = slice(start, start + micro)
                batch = Batch(clip[own], torch.full((micro,), -1), samples[now, own], crop=crops[now, own])
                _, journey = step(engine, clip[own], BatchSlice(start, start + micro, 8), now, 3, batch)
                step.observe(batch, journey)
            step.after_update(engine, now, 3)
    return step.beside.difficulty.cells


@pytest.mark.parametrize("masks_per_clip", [1, 2])
def test_any_number_of_rounds_and_ranks_gives_the_same_table(
    tiny_config, smooth_clip, tmp_path, masks_per_clip
) -> None:
    config = tiny_config(mask__decoded_share=0.5, mask__masks_per_clip=masks_per_clip, **MEMORY)
    clip, rng = smooth_clip(config, 8), np.random.default_rng(0)
    samples = torch.from_numpy(rng.integers(0, 5, (3, 8)))  # the same ones on both ranks and in several rounds
    box = rng.uniform(0.3, 0.7, (3, 8, 4))
    box[..., :2] *= 1 - box[..., 2:]
    crops = torch.from_numpy(np.concatenate([box, rng.integers(0, 2, (3, 8, 1))], axis=2)).float()
    found = {rounds: pass_of(*step_of(config, 6), clip, samples, crops, (0, 1, rounds)) for rounds in (1, 4)}
    assert (found[1] != 0).any(1).tolist() == [True] * 5 + [False]

    def on_rank(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=rank, world_size=2)
        torch.save(pass_of(*step_of(config, 6), clip, samples, crops, (rank, 2, 2)).detach(), tmp_path / f"{rank}.pt")
        dist.destroy_process_group()

    processes = [get_context("fork").Process(target=on_rank, args=[rank]) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    for table in (found[4], first):  # losses of other micro batches differ in their last bits
        torch.testing.assert_close(table, found[1], atol=2e-3, rtol=0)


def test_what_was_seen_counts_after_the_update_only(tiny_config, smooth_clip) -> None:
    config = tiny_config(**MEMORY)
    step, engine = step_of(config, 9)
    clip = smooth_clip(config, 4)
    batch = Batch(clip, torch.full((4,), -1), torch.tensor([8, 1, 5, 2]))  # no crop is given: the whole frame
    result, journey = step(engine, clip, BatchSlice(0, 4, 4), 0, 2, batch)
    assert not journey.difficulty.any()
    cells = step.source.state.cells
    for forget in (True, False):
        step.observe(batch, journey)
        if forget:
            step.skip_update()  # a gradient that is not finite
        step.after_update(engine, 0, 2)
        assert bool(cells.any()) != forget
    loss = journey.losses.patch_loss.unflatten(1, (12, 2)).mean(2).clamp(min=LEAST_LOSS).log()
    expected = torch.zeros(4, 16)
    units = journey.mask.hidden.unflatten(1, (12, 2))[:, :, 0] % 16
    expected.scatter_(1, units, (loss - loss.mean(1, keepdim=True)).detach())
    torch.testing.assert_close(cells[batch.sample].float(), expected, atol=2e-3, rtol=1e-3)
    again = step(engine, clip, BatchSlice(0, 4, 4), 1, 2, batch)[1]
    torch.testing.assert_close(again.difficulty, cells[batch.sample].float())
    hard = again.difficulty.topk(6, dim=1).indices
    assert again.mask.masked[:, :16].gather(1, hard).all()
    assert not step.difficulty_of(engine, clip).any()  # clips that no loader gave
    step.observe(batch._replace(kind="image"), journey)
    assert not step.source.seen


CUT = "data.crop=random_resized data.crop_area=[0.3,1.0] data.flip=true"
TINY = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=1 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 "
    "mask.difficulty=memory mask.hard_share_start=0.5 optim.batch_size=4 optim.base_lr=0.05 train.steps=6 "
    "train.log_every_steps=1 train.measure_every_steps=3 train.save_every_steps=3 train.num_pictures=1 engine.precision=fp32 "
    f"engine.num_threads=1 {CUT}"
).split()


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for number in range(8):
        waves = np.sin(np.arange(12)[:, None, None, None] * rng.uniform(0.2, 1) + rng.uniform(0, 6, (1, 16, 24, 3)))
        write_video(root / f"{number}.mkv", (127 + 120 * waves).astype(np.uint8), 10)
    return root


def state_of(run: Path, step: int = 6) -> dict[str, Tensor]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    parts = {name: load_file(folder / f"{name}.safetensors") for name in ("student", "teacher", "optimizer")}
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def logged(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["data.repeats=2", "mask.masks_per_clip=2"],
        ["objective.target=teacher_features", "data.num_workers=2"],
        ["images.root={images}", "mask.unit=token"],
        ["data.root={packed}"],
    ],
)
def test_a_resumed_run_is_bitwise_the_whole_one(videos, tmp_path, keys) -> None:
    def train(out: Path) -> int:
        own = [key.format(images=tmp_path / "images", packed=tmp_path / "packed") for key in keys]
        return main(["pretrain", *TINY, f"data.root={videos}", f"train.output={out}", *own])

    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.fromarray(np.full((20, 20, 3), 50 * number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
    if "data.root={packed}" in keys:
        pack(DataConfig(root=str(videos)), str(tmp_path / "packed"), samples_per_shard=3)

    whole, half = tmp_path / "whole", tmp_path / "half"
    assert train(whole) == 0
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / "step-00000006")  # as if it was killed after step 3
    assert train(half) == 0
    ours, theirs = state_of(whole), state_of(half)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = [[(line.get("loss"), line.get("loss_image")) for line in logged(run)] for run in (whole, half)]
    assert found[0] == found[1]
    table = ours["teacher/difficulty.cells"]
    assert table.shape == (6, 32 if "mask.unit=token" in keys else 16) and table.dtype == torch.float16
    assert table.any(1).sum() >= (4 if "images.root={images}" in keys else 6)
    assert not torch.equal(table, state_of(whole, 3)["teacher/difficulty.cells"])
    told = {name for line in logged(whole) for name in line}  # held-out clips have no difficulty
    assert "held_out/pixel_loss" in told and not told & {"held_out/hardness_gain", "held_out/motion_visible"}
    assert "difficulty_visible" in told
    maps = [json.loads(line)["difficulty"] for line in (whole / "difficulty.jsonl").read_text().splitlines()]
    assert not np.any(maps[0]) and np.any(maps[-1])  # of training clips: nothing is known before the first step
    assert main(["show", str(whole)]) == 0


def test_other_data_start_a_new_table(videos, tmp_path, capsys) -> None:
    fewer, out = tmp_path / "fewer", tmp_path / "run"
    shutil.copytree(videos, fewer)
    for number in (1, 4, 7):
        (fewer / f"{number}.mkv").unlink()
    keys = ["pretrain", *TINY, f"train.output={out}"]
    assert main([*keys, f"data.root={videos}", "train.steps=3"]) == 0
    assert main([*keys, f"data.root={fewer}", "train.accept=all"]) == 0
    assert "the state of the clips is reset" in capsys.readouterr().out
    num_rows = json.loads((out / "data.json").read_text())["data"]["train"]["num_rows"]
    assert num_rows < 6 and state_of(out)["teacher/difficulty.cells"].shape == (num_rows, 16)


def test_its_weights_start_a_run_with_a_teacher(videos, tmp_path) -> None:
    keys = ["pretrain", *TINY, f"data.root={videos}", "train.steps=1"]
    assert main([*keys, f"train.output={tmp_path / 'one'}"]) == 0
    more = ["mask.difficulty=teacher", f"init.weights={tmp_path / 'one'}", f"train.output={tmp_path / 'two'}"]
    assert main([*keys, *more]) == 0


def correlations(config, tells_crops: bool) -> list[float]:
    """The rank correlation of memory and true loss by epoch: 16 frames, each with noise at places of its own."""
    step, engine = step_of(config, 16)
    rng, transform = np.random.default_rng(0), make_transform(config.data, training=True)
    noisy = (rng.random((16, 1, 4, 4, 1)) < 0.3).repeat(8, 2).repeat(8, 3)
    frames = np.where(noisy, rng.integers(0, 256, (16, 4, 32, 32, 3)), 128).astype(np.uint8)
    found, now = [], 0
    for _ in range(6):
        values = []
        for sample in rng.permutation(16).reshape(2, 8):
            cuts = [transform.cut(frames[row], rng) for row in sample]
            clip = torch.stack([clip for clip, _ in cuts]).float() / 64 - 2
            crop = torch.tensor([crop for _, crop in cuts]) if tells_crops else None
            batch = Batch(clip, torch.full((8,), -1), torch.from_numpy(sample), crop=crop)
            result, journey = step(engine, clip, BatchSlice(0, 8, 8), now, 12, batch)
            units = journey.mask.hidden.unflatten(1, (12, 2))[:, :, 0] % 16
            loss = journey.losses.patch_loss.detach().unflatten(1, (12, 2)).mean(2)
            values.append(float(rank_correlation(journey.difficulty.gather(1, units), loss)))
            engine.backward(result.loss)
            step.observe(batch, journey)
            engine.step(1e-3)
            step.after_update(engine, now, 12)
            now += 1
        found.append(float(np.mean(values)))
    return found


def test_it_tells_hard_units_after_some_epochs_and_needs_the_crops(tiny_config) -> None:
    keys = {"data__crop": "random_resized", "data__crop_area": [0.3, 1.0], "data__flip": True}
    config = tiny_config(objective__target="raw", mask__unit="tube", **keys, **MEMORY)
    with_crops, without = (correlations(config, tells) for tells in (True, False))
    assert abs(with_crops[0]) < 0.2 and min(with_crops[2:]) > 0.5
    assert all(known > unknown + 0.2 for known, unknown in zip(with_crops[2:], without[2:], strict=True))

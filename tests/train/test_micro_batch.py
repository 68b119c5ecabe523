"""The micro batch that fits: how it is chosen, that a run keeps it, and what is said if memory runs out."""

import re
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from hpm_video.cli import main
from hpm_video.config import load_config, load_finetune_config
from hpm_video.config.batch import split_batch
from hpm_video.costs import dry_run as dry_runs
from hpm_video.costs import memory
from hpm_video.costs.dry_run import DryRun, dry_run_classifier
from hpm_video.costs.memory import (
    Need,
    bound_activations,
    choose_micro_batch,
    describe_shortage,
    estimate_need,
    free_memory,
)
from hpm_video.models.student import build_student
from hpm_video.preprocess.encode import write_video
from hpm_video.train import duration, micro_batch
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.metrics import format_span

CPU = torch.device("cpu")
TINY = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=0 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=2 model.num_heads=2 engine.num_threads=1 optim.batch_size=4 train.steps=2 train.save_every_steps=1 "
    "train.log_every_steps=1 model.drop_path=0.2"
).split()
DECODER = (
    "model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 train.num_pictures=1 "
    "preset=hpm_teacher"  # without a table, whose size depends on the data
).split()


DONE: dict[str, DryRun] = {}


def dry_run(config, num_clips: int, bf16: bool) -> DryRun:
    """Each once: it takes seconds, and depends on model, clips and masks only."""
    parts = (
        config.data.num_frames,
        config.data.frame_size_px,
        config.model,
        config.mask,
        config.teacher,
        config.objective,
    )
    key = f"{parts} {num_clips} {bf16} {config.engine.precision}"
    if key not in DONE:
        DONE[key] = dry_runs.dry_run(config, num_clips, bf16)
    return DONE[key]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    rng = torch.Generator().manual_seed(0)
    for number in range(8):
        frames = torch.randint(0, 256, (12, 16, 16, 3), generator=rng, dtype=torch.uint8)
        write_video(root / f"{number}.mkv", frames.numpy(), 10)
    return root


@pytest.fixture()
def run(videos, tmp_path, capsys):
    """run("key=value"): (status, what was said, micro batch in RUN/config.yaml)."""
    out = tmp_path / "run"

    def start(*keys: str) -> tuple[int, str, object]:
        status = main(["pretrain", *TINY, *DECODER, f"data.root={videos}", f"train.output={out}", *keys])
        said, file = capsys.readouterr(), out / "config.yaml"
        kept = OmegaConf.load(file).engine.micro_batch_size if file.is_file() else "no file"
        return status, said.out + said.err, kept

    return start


@pytest.fixture(autouse=True)
def each_dry_run_once(monkeypatch):
    monkeypatch.setattr(micro_batch, "dry_run", dry_run)


def set_free(monkeypatch, num_bytes: float) -> None:
    monkeypatch.setattr(micro_batch, "free_device_memory", lambda number: num_bytes)


def needed(config, micro: int) -> float:
    """Free memory at which this many clips just fit."""
    return estimate_need(config, dry_run(config, 1, False), 1, on_cpu=True).of(micro) / memory.MARGINS["cpu"]


@pytest.fixture()
def config():
    """The configuration of `run`."""
    return load_config(None, [*TINY, *DECODER, "data.root=x", "train.output=nowhere"])


def test_choice_by_hand() -> None:
    need = Need(fixed=100, clip=10)
    assert [choose_micro_batch(need, 12, n) for n in (109, 110, 145, 159, 160, 165, 220, 1e9)] == [
        0,
        1,
        4,
        4,
        6,
        6,
        12,
        12,
    ]
    assert choose_micro_batch(need, 7, 169) == 1  # of 7 only 1 and 7 divide


@pytest.mark.parametrize(
    "overrides",
    [{"mask__mode": "random"}, {"model__width": 64, "model__decoder_width": 64}, {"mask__masks_per_clip": 3}],
)
def test_bound_is_above_the_dry_run(tiny_config, overrides) -> None:
    config = tiny_config(**overrides)
    assert bound_activations(config) > dry_run(config, 1, False).peak_bytes


def test_copies_of_the_weights_in_bf16_are_not_counted_for_each_clip(tiny_config) -> None:
    config = tiny_config(model__width=256, model__decoder_width=128)
    need = estimate_need(config, dry_run(config, 1, True), 1, on_cpu=False, bf16=True)
    run = dry_run(config, 9, True)
    exact = sum(memory.estimate_memory(config, run, 1).values()) + 9 * 4 * memory.CLIP_COPIES * 3 * 4 * 16 * 16
    assert exact < need.of(9) - 4 * 3 * 4 * 16 * 16 * config.data.num_held_out < 1.5 * exact


def test_estimate_of_fine_tuning(tmp_path) -> None:
    config = load_finetune_config(None, [*TINY, "data.root=x", "train.output=y", "optim.average_decay=0.9"])
    run = dry_run_classifier(config, 5, False)
    count = run.num_parameters["student"]
    assert run.num_parameters["teacher"] == count and 0 < run.peak_bytes < bound_activations(config)
    need = estimate_need(config, run, 1, on_cpu=True)
    assert need.fixed == (20 + 16) * count + 2 * 4 * 16 * 16 * 4 * 3  # training, and the copies of a checkpoint
    assert need.clip > run.peak_bytes


def test_all_clips_in_one_pass_if_they_fit_as_before(run) -> None:
    status, said, kept = run()
    assert status == 0 and kept == 4 and "micro batch: all 4 clips of a rank in one pass: less than " in said


def test_a_choice_draws_no_random_numbers(config, monkeypatch) -> None:
    set_free(monkeypatch, needed(config, 2))
    before = torch.get_rng_state()
    assert micro_batch.settle_micro_batch(config, CPU, None).engine.micro_batch_size == 2
    assert torch.equal(torch.get_rng_state(), before) and config.engine.micro_batch_size == "auto"


def test_less_memory_gives_fewer_clips_and_the_arithmetic(run, config, monkeypatch) -> None:
    set_free(monkeypatch, needed(config, 2))
    status, said, kept = run()
    assert status == 0 and kept == 2
    assert re.search(r"micro batch: 2 of 4 clips of a rank in one pass: \S+ \+ 2 x \S+ = \S+ of \S+ GiB, 80%", said)


def stop_after_first_step(run_folder):
    """As if the run had been stopped there; returns the weights of the end."""
    last = run_folder / "checkpoints" / "step-00000002"
    weights = load_file(last / "student.safetensors")
    shutil.rmtree(last)
    return weights


def test_a_run_that_resumes_keeps_its_number_and_its_draws(run, config, monkeypatch, tmp_path) -> None:
    """Drop path is drawn for each micro batch: another number would give other weights."""
    set_free(monkeypatch, needed(config, 2))
    assert run()[2] == 2
    whole = stop_after_first_step(tmp_path / "run")
    set_free(monkeypatch, 1e12)
    _, said, kept = run()
    assert kept == 2 and "micro batch: 2 of 4 clips of a rank in one pass, as in config.yaml" in said
    resumed = stop_after_first_step(tmp_path / "run")
    assert all(torch.equal(weight, whole[name]) for name, weight in resumed.items())
    monkeypatch.setitem(memory.MARGINS, "cpu", 1.0)
    assert run("engine.micro_batch_size=4")[2] == 4  # a number that is given counts
    stop_after_first_step(tmp_path / "run")
    set_free(monkeypatch, needed(config, 2))
    _, said, kept = run()
    assert kept == 2 and "not 4 as in config.yaml, which no longer divides the batch or fits" in said


def test_null_of_an_older_run_means_all_clips(run, config, monkeypatch, tmp_path) -> None:
    assert run("engine.micro_batch_size=null")[2] is None
    stop_after_first_step(tmp_path / "run")
    set_free(monkeypatch, needed(config, 4) * memory.MARGINS["cpu"])  # it fits, with nothing to spare
    assert run()[2] == 4


def test_not_even_one_clip_is_refused_before_training(run, config, monkeypatch) -> None:
    set_free(monkeypatch, 0.5 * needed(config, 1))
    status, said, kept = run()
    assert status == 1 and kept == "no file" and "error: engine.micro_batch_size: one clip in one pass takes" in said
    for way in ("model.checkpointing=true", "preset=small", "preset=tiny", "data.frame_size_px"):
        assert way in said
    status, said, kept = run("engine.micro_batch_size=1")
    assert status == 0 and kept == 1 and "1 clips in one pass take about" in said


def test_fine_tuning_too(monkeypatch, tmp_path) -> None:
    config = load_finetune_config(None, [*TINY, "data.root=x", f"train.output={tmp_path / 'y'}", "engine.kind=plain"])
    need = estimate_need(config, dry_run_classifier(config, 5, False), 1, on_cpu=True)
    set_free(monkeypatch, need.of(2) / memory.MARGINS["cpu"])
    assert micro_batch.settle_micro_batch(config, CPU, None, 5).engine.micro_batch_size == 2


def test_auto_that_nobody_settled_is_the_whole_share() -> None:
    assert split_batch(8, "auto", 2) == split_batch(8, None, 2) == split_batch(8, 4, 2)


# --- memory that has run out


def test_a_real_allocation_that_fails() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    told = describe_shortage(caught.value)
    assert told is not None and re.match(
        r"out of memory: 1.05e\+06 GiB were requested, \S+ GiB of main memory are free", told
    )


def test_what_is_and_what_is_not_a_lack_of_memory() -> None:
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.50 MiB. GPU 0 has a total capacity of 7 GiB")
    assert "0.02 GiB were requested" in describe_shortage(gpu)
    assert "out of memory: " in describe_shortage(MemoryError())
    assert "out of memory: " in describe_shortage(OSError(12, "Cannot allocate memory"))
    assert describe_shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert describe_shortage(FileNotFoundError(2, "No such file")) is None


def test_a_gpu_that_runs_out_in_a_step_is_one_sentence(run, monkeypatch) -> None:
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(PlainEngine, "__call__", fail)
    status, said, _ = run()
    error = said[said.index("error: ") :]
    assert status == 1 and "Traceback" not in said and error.count("\n") == 1
    assert "3 GiB were requested" in error and "the model takes 4 clips in one pass" in error
    for way in ("engine.micro_batch_size=2", "model.checkpointing=true", "preset=small"):
        assert way in error


def test_a_cpu_that_runs_out_in_a_step_is_one_sentence(run, monkeypatch) -> None:
    """The allocation is a real one."""
    monkeypatch.setattr(PlainEngine, "backward", lambda self, loss: torch.empty(2**50))
    status, said, _ = run("engine.micro_batch_size=1")
    assert status == 1 and "4.19e+06 GiB were requested" in said and "the model takes 1 clip in one pass" in said
    assert "engine.micro_batch_size=" not in said[said.index("error: ") :]


def test_other_commands_say_it_too(monkeypatch, capsys, tmp_path) -> None:
    from hpm_video.commands import test
    from hpm_video.evals.finetuned import multi_view_test

    monkeypatch.setattr(test, "check_run", lambda *_, **__: None)
    monkeypatch.setattr(multi_view_test, "evaluate_run", lambda *_: torch.empty(2**50))
    assert main(["test", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory: ") and "test.batch_size" in said
    monkeypatch.setattr(multi_view_test, "evaluate_run", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):  # a fault of the program stays one
        main(["test", str(tmp_path)])


# --- free memory


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups(tmp_path, version) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "groups"
    job = root / ("memory/jobs/one" if version == 1 else "jobs/one")
    job.mkdir(parents=True)
    groups.write_text("4:cpu,cpuacct:/x\n5:memory:/jobs/one\n" if version == 1 else "0::/jobs/one\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    for place, limit, used in ((job, "max", 100), (job.parent, "1000", 700)):
        (place / names[0]).write_text(f"{2**63 - 4096 if version == 1 and limit == 'max' else limit}\n")
        (place / names[1]).write_text(f"{used}\n")
    (job.parent / "memory.stat").write_text(f"cache 5\n{'total_' if version == 1 else ''}inactive_file 50\n")
    assert min(memory._free_of_groups(root, groups)) == 350
    assert free_memory() > 0


# --- time


def test_a_long_run_is_told_before_its_first_step(run, monkeypatch) -> None:
    monkeypatch.setattr(duration, "SHORT_RUN_FLOPS", 0.0)
    monkeypatch.setattr(duration, "measure_product", lambda *_: 1.0)
    _, said, _ = run()
    assert "to the end if reading the videos keeps up" in said and "preset=tiny" in said
    assert said.index("to the end if") < said.index("step 1/2")


def test_time_by_hand_and_not_of_what_is_done(tiny_config, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(duration, "measure_product", lambda *_: 1e9)
    monkeypatch.setattr(duration.log, "info", lambda text, *values: said.append(text % values))
    config = tiny_config()
    engine = PlainEngine(build_student(config), config, CPU, rank=0, world_size=2)
    duration.announce_duration(engine, 2 * 3600 * duration.STEP_SHARE * 2e9)
    duration.announce_duration(engine, 0.0)
    assert len(said) == 1 and said[0].startswith("about 1 h 00 min to the end")


def test_a_product_is_timed_without_random_numbers() -> None:
    before = torch.get_rng_state()
    assert duration.measure_product(CPU, bf16=False) > 1e6
    assert torch.equal(torch.get_rng_state(), before)


def test_spans() -> None:
    seconds = (0, 45, 90, 59.6 * 60, 12_000, 71 * 3600, 4.5 * 86400, 4000 * 86400)
    assert [format_span(s) for s in seconds] == [
        *("0 s", "45 s", "2 min", "1 h 00 min", "3 h 20 min", "71 h 00 min", "4.5 days", "4,000.0 days")
    ]

"""Compute the costs of a recipe from its configuration: parameters, multiply-adds, memory and hours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hpm_video.config import FinetuneConfig, PretrainConfig, load_config, load_finetune_config
from hpm_video.config.data_sets import UNKNOWN, find_protocol
from hpm_video.config.deepspeed_settings import MOST_REDUCED, bucket_size
from hpm_video.costs.flops import (
    count_classifier,
    count_step,
    finetune_flops,
    run_flops,
    teacher_share,
    testing_flops,
)
from hpm_video.costs.memory import bytes_per_parameter, table_bytes
from hpm_video.files import write_text
from hpm_video.models.classifier import Classifier
from hpm_video.models.student import Student
from hpm_video.reading import read_json
from hpm_video.report.document import Block, Code, Heading, Paragraph, Table, to_markdown
from hpm_video.report.literature import BEST_CLIPS_PER_S, BEST_MFU, COSTS, published_table
from hpm_video.train.run import num_steps

A100_FLOPS = 312e12  # peak in bf16 per second, as NVIDIA states
NUM_RANKS = 8
PLAIN, ZERO_1 = (sum(bytes_per_parameter(*how).values()) for how in (("plain", 1), ("ZeRO-1", NUM_RANKS)))


class Recipe(NamedTuple):
    """A data set with its published numbers of videos, and the commands from videos to scores."""

    key: str  # in the names of files and scripts
    title: str
    set_name: str
    root: str  # value of data.root in the commands
    num_classes: int
    num_train: int
    num_test: int
    counted: str  # source of the numbers

    @property
    def commands(self) -> list[str]:
        """Return the commands that run the recipe."""
        return [
            f"deepspeed scripts/pretrain_{self.key}.py data.root={self.root} train.output=RUN",
            f"scripts/finetune_{self.key}.sh data.root={self.root} init.weights=RUN",
        ]


RECIPES = (
    Recipe("ssv2", "Something-Something V2", "ssv2", "DIR", 174, 168_913, 24_777, "as published"),
    Recipe("k400", "Kinetics-400", "kinetics400", "DIR", 400, 240_258, 19_881, "in CVDF's copy"),
)
GPU_FORMAT = "hpm-video gpu page 1"  # format of benchmarks/results/gpu_*.json, which benchmarks/gpu/report.py writes
THE_RECIPE = "hpm (the recipe)"
PRESETS = {
    THE_RECIPE: "hpm",
    "hpm_teacher": "hpm_teacher",
    "hpm_paper": "hpm_paper",
    "random_half": "random_half",
    "videomae": "videomae",
}


def write_recipes(home: Path, out: Path) -> list[Path]:
    """Write ssv2.md and k400.md into `out` from the configurations in `home`/configs; return the files."""
    files = []
    for recipe in RECIPES:
        files.append(out / f"{recipe.key}.md")
        write_text(files[-1], describe_recipe(recipe, home / "configs", home / "benchmarks" / "results"))
    return files


def measured_rates(results: Path) -> dict[str, dict[str, float]]:
    """Return the clips per second of ViT-B by GPU page and preset, in the fastest mode. Raises UserError."""
    found: dict[str, dict[str, float]] = {}
    for file in sorted(results.glob("gpu_*.json")):
        content = read_json(file, dict, "the figures of a page of benchmarks/gpu/report.py")
        rows = content.get("stages", {}).get("speed", {}).get("results", {}).get("measured", [])
        rates = found.setdefault(file.stem, {})
        for row in rows:
            if row["size"] == "b" and row["clips_per_s"]:
                rates[row["name"]] = max(rates.get(row["name"], 0.0), row["clips_per_s"]["median"])
    return {page: rates for page, rates in found.items() if rates}


def _measured_blocks(recipe: Recipe, configs: dict[str, PretrainConfig], results: Path) -> list[Block]:
    """Return the hours of one GPU at its measured rates, or a sentence if there are none."""
    pages = measured_rates(results)
    if not pages:
        return [Paragraph("No rate was measured on a GPU at this size.")]
    rows = []
    for label, config in configs.items():
        rates = [rates.get(PRESETS[label]) for rates in pages.values()]
        clips = num_steps(config, recipe.num_train) * config.optim.batch_size
        rows.append(
            [label, *("not measured" if not r else f"{clips / r / 3600:,.0f} ({r:,.0f} clips/s)" for r in rates)]
        )
    head = ["GPU-hours at the measured rate, no data", *(f"[{page}](../results/{page}.md)" for page in pages)]
    return [Heading("Pretraining, at the rate of one GPU"), Table(head, rows)]


def describe_recipe(recipe: Recipe, configs: Path, results: Path) -> str:
    """Return the page of a recipe as Markdown. results: the folder with the GPU pages. Raises UserError if a file cannot
    be read."""
    name, given = f"{recipe.key}_vitb.yaml", [f"data.root={recipe.root}", "train.output=RUN"]
    keys = {label: [] if preset == "hpm" else [f"preset={preset}"] for label, preset in PRESETS.items()}
    pretraining = {label: load_config(configs / "pretrain" / name, [*given, *more]) for label, more in keys.items()}
    tuning = load_finetune_config(configs / "finetune" / name, given)
    blocks: list[Block] = [
        Paragraph(
            "**Our result: not run, because the data set is not available here.** Numbers called computed follow from the "
            "configurations by `hpm_video/costs/flops.py` and the stated formulas; they were not measured. "
            "`python benchmarks/report.py --recipes` writes this file, and a test keeps it up to date."
        ),
        Heading("Recipe"),
        Paragraph(
            f"`configs/pretrain/{name}`, then `configs/finetune/{name}`, which also tests. {recipe.num_train:,} training and "
            f"{recipe.num_test:,} validation videos, {recipe.num_classes} classes ({recipe.counted})."
        ),
        Code("\n".join(recipe.commands)),
        Heading("Pretraining, computed"),
        _pretraining_table(recipe, pretraining),
        Paragraph(HOW_COUNTED),
        *_measured_blocks(recipe, pretraining, results),
        Heading("Fine-tuning and test, computed"),
        _tuning_table(recipe, tuning),
        Heading(f"Parameters, and memory of each of {NUM_RANKS} ranks under ZeRO-1, computed"),
        _memory_table(recipe, pretraining, tuning),
        Paragraph(HOW_STORED),
        Heading("Published results of others, ViT, top-1 in per cent after full fine-tuning"),
        Table(*published_table(recipe.key)),
    ]
    if recipe.key == "ssv2":
        blocks += _published_costs(list(pretraining.values())[-1], recipe)
    return to_markdown(f"{recipe.title}, ViT-B/16, 16 x 224 x 224", blocks)


HOW_COUNTED = (
    "A multiply-add is 2 FLOPs. A training step is three forward passes of the student, plus one of the teacher in steps that "
    "use it. Only linear maps and the two products of attention are counted. "
    f"A100-hours = FLOPs / ({BEST_MFU:.1%} of {A100_FLOPS / 1e12:.0f} TFLOP/s in bf16): an assumed rate, the best published "
    "one for this kind of training (V-SWIFT)."
)
HOW_STORED = (
    f"Bytes per parameter in one process: {PLAIN:g} (fp32 weights 4, gradients 4, moments of AdamW 8). On each of {NUM_RANKS} "
    f"ranks: {ZERO_1:g} (weights 4, gradients 4, gradients that DeepSpeed has reduced 4, and a share of the moments and of "
    f"DeepSpeed's fp32 copy, 12 / {NUM_RANKS}). The last column includes DeepSpeed's buffer to reduce gradients, at most "
    f"{MOST_REDUCED * 4 / 2**30:.2f} GiB. The teacher adds 4 bytes per parameter. Activations are not included; they depend on "
    "`engine.micro_batch_size` and `model.checkpointing`, and `hpm-video doctor` estimates them."
)


def _published_costs(random: PretrainConfig, recipe: Recipe) -> list[Block]:
    rows = [[cost.method, f"{cost.a100_hours:,.0f}", cost.source or "not checked"] for cost in COSTS]
    steps = num_steps(random, recipe.num_train)
    slow, quick = (steps * random.optim.batch_size / rate / 3600 for rate in BEST_CLIPS_PER_S)
    text = (
        f"The computed hours are a lower bound: at the published rate of V-SWIFT ({BEST_CLIPS_PER_S[0]} to "
        f"{BEST_CLIPS_PER_S[1]} clips/s on one A100), {random.train.epochs:g} epochs of random masks take {quick:.0f} to "
        f"{slow:.0f} hours; computed: {a100_hours(run_flops(random, steps)):.0f}."
    )
    table = Table(["published, not ours", "A100-hours", "source"], rows)
    return [Heading("Published cost of pretraining on this set"), table, Paragraph(text)]


def a100_hours(flops: float) -> float:
    """Return the hours that one A100 needs for these FLOPs."""
    return flops / (BEST_MFU * A100_FLOPS) / 3600


def _pretraining_table(recipe: Recipe, configs: dict[str, PretrainConfig]) -> Table:
    rows = []
    for label, config in configs.items():
        steps, cost = num_steps(config, recipe.num_train), count_step(config)
        share = teacher_share(config, steps)
        parts = [("patch embedding", "encoder"), ("pixel decoder", "head"), ("predictor",)]
        macs = [*(sum(cost.stages[name] for name in names) for names in parts), cost.teacher, cost.step(share)]
        total = run_flops(config, steps)
        cells = [label, f"{steps:,}", *(f"{number / 1e9:.1f}" for number in macs)]
        rows.append([*cells, f"{total:.3g}", f"{a100_hours(total):,.0f}"])
    stages = [f"{stage}, G" for stage in ("encoder", "decoder", "predictor", "teacher", "training step")]
    first = next(iter(configs.values()))
    head = f"{first.train.epochs:g} epochs, batch {first.optim.batch_size:,}"
    return Table([head, "steps", *stages, "FLOPs, total", "A100-hours"], rows)


def _tuning_table(recipe: Recipe, config: FinetuneConfig) -> Table:
    steps, protocol = num_steps(config, recipe.num_train), find_protocol(recipe.set_name) or UNKNOWN
    views = (config.test.num_clips or protocol.num_clips, config.test.num_crops or protocol.num_crops)
    forward = count_classifier(config, recipe.num_classes) / 1e9
    rows = []
    for label, factor, amount, flops in (
        (
            f"training, {config.train.epochs:g} epochs of clips, batch {config.optim.batch_size:,}",
            3,
            f"{steps:,} steps",
            finetune_flops(config, recipe.num_classes, steps),
        ),
        (
            f"test, {views[0]} clips x {views[1]} crops",
            1,
            f"{recipe.num_test:,} videos",
            testing_flops(config, recipe.num_classes, recipe.num_test, views[0] * views[1]),
        ),
    ):
        rows.append([label, amount, f"{factor * forward:.1f}", f"{flops:.3g}", f"{a100_hours(flops):,.1f}"])
    return Table(["part", "amount", "multiply-adds per clip, G", "FLOPs, total", "A100-hours"], rows)


def _memory_table(recipe: Recipe, pretraining: Mapping[str, PretrainConfig], tuning: FinetuneConfig) -> Table:
    config, with_teacher = (pretraining[label] for label in (THE_RECIPE, "hpm_teacher"))
    with torch.device("meta"):
        student, other = Student.of(config), Student.of(with_teacher)
        classifier = Classifier.of(tuning, recipe.num_classes)
    whole, with_predictor = count_parameters([student]), count_parameters([other])
    teacher = with_predictor - count_parameters([other.decoder, other.pixel_head])
    table = [f"{table_bytes(config, recipe.num_train) / 2**30:.2f}"] * 2
    rows = [
        ["encoder", _millions(count_parameters([student.encoder])), "", ""],
        ["student: encoder, pixel decoder", _millions(whole), *_gib(whole)],
        ["table of difficulties", "", *table],
        ["hpm_teacher, student: encoder, pixel decoder, predictor", _millions(with_predictor), *_gib(with_predictor)],
        ["hpm_teacher, teacher: encoder, predictor", _millions(teacher), *[f"{4 * teacher / 2**30:.2f}"] * 2],
        ["classifier of fine-tuning", _millions(count_parameters([classifier])), *_gib(count_parameters([classifier]))],
    ]
    return Table(["part", "parameters", "GiB, one process", f"GiB, a rank of {NUM_RANKS}"], rows)


def count_parameters(modules: Sequence[nn.Module]) -> int:
    """Return the number of parameters of several modules."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _gib(count: int) -> list[str]:
    return [f"{(count * PLAIN) / 2**30:.2f}", f"{(count * ZERO_1 + 4 * bucket_size(count)) / 2**30:.2f}"]

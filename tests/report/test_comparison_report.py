"""Comparisons: what may not be mixed, how scores are averaged and judged, and the files that come out."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from hpm_video.cli import main
from hpm_video.config import load_finetune_config
from hpm_video.report.comparison import check_comparable, compare_variants, group_variants, mean_of
from hpm_video.report.comparison_report import chance_beyond, write_comparison
from hpm_video.report.document import Paragraph, Table, to_markdown
from hpm_video.report.finished_runs import open_runs
from hpm_video.report.literature import PUBLISHED
from hpm_video.report.recipe_costs import RECIPES, describe_recipe
from hpm_video.runs.results import add_scores, write_results
from hpm_video.types import UserError

HOME = Path(__file__).parents[2]
VARY = ["mask.mode", "teacher.view"]
TUNE = "data.root=x train.output=x data.num_frames=4 data.frame_size_px=[16,16] model.patch_px=4".split()


@pytest.fixture
def make_run(tiny_config, tmp_path):
    """make_run(name, mode=..., seed=..., knn=..., ...): the folder of a finished run, as training leaves it."""

    def make(name: str, mode: str = "hpm", seed: int = 0, knn: float | None = None, **more: Any) -> Path:
        figures, scores, given = more.pop("figures", {"steps": 10}), more.pop("scores", {}), more.pop("given", {})
        config = more.pop("config", None) or tiny_config(mask__mode=mode, train__seed=seed, train__output=name, **more)
        run = tmp_path / name
        run.mkdir(parents=True)
        given = {"seconds": 60.0, "flops": 1e12, "world_size": 1, "data": {"name": "set", "fingerprint": "f"}} | given
        kind = given.pop("kind", "pretrain")
        write_results(run, kind, config, figures=figures, **given)
        if knn is not None:
            add_scores(run, "probe", {"knn": knn, "num_test": 100, "chance": 0.2, "knn_C": 0.1} | scores)
        return run

    return make


def refuse(runs: list[Path], *said: str, vary=(), shared=(), compare="steps") -> None:
    with pytest.raises(UserError) as error:
        check_comparable(open_runs(runs), shared, vary, compare)
    assert all(text in str(error.value) for text in said), error.value


DIFFERENCES = {
    "kind": ({"given": {"kind": "finetune"}}, "'pretrain'", "'finetune'"),
    "data.name": ({"given": {"data": {"name": "other", "fingerprint": "f"}}}, "'set'", "'other'"),
    "data.fingerprint": ({"given": {"data": {"name": "set", "fingerprint": "g"}}}, "'f'", "'g'"),
    "clips": ({"figures": {"steps": 20}}, "80", "160"),
    "scores.probe.num_clips": ({"scores": {"num_clips": 5}, "knn": 0.5}, "2", "5"),
    "model.width": ({"model__width": 64}, "32", "64"),
    "data.frame_size_px": ({"data__frame_size_px": [32, 32]}, "[16, 16]", "[32, 32]"),
    "mask.mode": ({"mode": "random"}, "'hpm'", "'random'"),
    "engine.precision": ({"engine__precision": "bf16"}, "'fp32'", "'bf16'"),
}


@pytest.mark.parametrize("key", DIFFERENCES)
def test_each_difference_is_refused_with_key_runs_and_values(make_run, key) -> None:
    changes, *values = DIFFERENCES[key]
    runs = [make_run("one", knn=0.5, scores={"num_clips": 2}), make_run("two", **changes)]
    refuse(runs, f"{key}: {values[0]} in one, {values[1]} in two")


def test_places_and_ways_to_run_are_no_differences(make_run) -> None:
    one = make_run("a/run", data__root="/here/x", train__log_every_steps=1)
    two = make_run("b/run", seed=1, data__root="/there/y", train__log_every_steps=2, given={"world_size": 8})
    runs = open_runs([one, two])
    assert [run.name for run in runs] == ["a/run", "b/run"]
    check_comparable(runs, [], [], "steps")
    refuse([one, two], "world_size: 1 in a/run, 8 in b/run", shared=["world_size"])
    refuse([one, two], "train.seed: 0 in a/run, 1 in b/run", shared=["train.seed"])
    refuse([one, two], "'mask.mood' is not a setting", "Did you mean 'mask.mode'", vary=["mask.mood"])


def test_the_key_under_study_may_differ_alone_or_as_a_section(make_run) -> None:
    runs = [make_run("one"), make_run("two", mode="random"), make_run("three", teacher__view="partial")]
    for vary in (["mask.mode", "teacher.view"], ["mask", "teacher"]):
        check_comparable(open_runs(runs), [], vary, "steps")
    refuse(runs, "teacher.view: 'all' in one, 'partial' in three", vary=["mask.mode"])
    refuse([*runs, make_run("four", mode="random")], "train.seed: '0' in two and in four", "same settings", vary=VARY)
    with pytest.raises(UserError, match="one is named twice"):
        open_runs([runs[0], runs[0]])


def test_equal_compute_is_within_five_per_cent(make_run) -> None:
    runs = [make_run("one"), make_run("two", mode="random", figures={"steps": 17}, given={"flops": 1.05e12})]
    check_comparable(open_runs(runs), [], VARY, "compute")
    refuse(runs, "clips: 80 in one, 136 in two", "--compare compute", vary=VARY)
    more = make_run("three", mode="inverted", given={"flops": 1.0501e12})
    refuse([*runs, more], "flops: 1e+12 in one, 1.05e+12 in three", vary=VARY, compare="compute")
    refuse([runs[0], make_run("four", seed=1, given={"flops": None})], "not recorded for four", compare="compute")


def test_folds_that_follow_the_seed_are_the_same_for_each_variant(make_run) -> None:
    def data(fold: str) -> dict:
        return {"data": {"name": "set", "fingerprint": fold, "num_rows": 40 + len(fold)}}

    runs = [
        make_run(f"{mode}{seed}", mode, seed, given=data("f" * seed)) for mode in ("hpm", "random") for seed in (1, 2)
    ]
    check_comparable(open_runs(runs), [], VARY, "steps")
    check_comparable(open_runs(runs[:2]), [], [], "steps")
    refuse(runs[:3], "data.fingerprint: 'f' in hpm1, 'ff' in hpm2", vary=VARY)  # not every seed of both
    other = make_run("inverted1", "inverted", 1, given=data("gg"))
    another = make_run("inverted2", "inverted", 2, given=data("ff"))
    refuse([*runs, other, another], "data.fingerprint: 'f' in hpm1, 'gg' in inverted1", vary=VARY)


def test_mean_and_standard_error_are_numpys(make_run) -> None:
    values = [0.5, 0.62, 0.57]
    mean = mean_of(values)
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(3)) and mean_of([0.5]).error is None


def test_differences_and_their_verdicts(make_run) -> None:
    scores = {"hpm": [0.60, 0.72, 0.69], "random": [0.50, 0.60, 0.58], "inverted": [0.52, 0.59, 0.61]}
    runs = open_runs([make_run(f"{m}{s}", m, s, knn) for m, row in scores.items() for s, knn in enumerate(row)])
    hpm, random, inverted = group_variants(runs, VARY)
    found, apart = compare_variants(hpm, random, "probe knn"), np.subtract(scores["hpm"], scores["random"])
    assert found.value == pytest.approx(apart.mean()) and found.error == pytest.approx(apart.std(ddof=1) / 3**0.5)
    assert (found.verdict, found.over) == ("above", "paired seeds")
    assert compare_variants(random, hpm, "probe knn").verdict == "below"
    assert compare_variants(inverted, random, "probe knn").verdict == "level"
    fewer = random._replace(runs=random.runs[:2])
    found, errors = compare_variants(hpm, fewer, "probe knn"), [mean_of(scores["hpm"]).error, mean_of([0.5, 0.6]).error]
    assert found.error == pytest.approx(np.hypot(*errors)) and found.over == "seeds"
    single = compare_variants(*(v._replace(runs=v.runs[:1]) for v in (hpm, random)), "probe knn")
    assert single.error == pytest.approx(((0.6 * 0.4 + 0.5 * 0.5) / 100) ** 0.5) and single.over == "test clips"
    assert single.verdict == "level"


def test_chance_of_passing_two_standard_errors_by_simulation() -> None:
    draws = np.random.default_rng(0).normal(size=(20000, 3))
    beyond = np.abs(draws.mean(1)) > 2 * draws.std(1, ddof=1) / 3**0.5
    assert chance_beyond(3) == pytest.approx(beyond.mean(), abs=0.01)


def test_intervals_are_read_and_other_floats_are_no_scores(make_run) -> None:
    run = open_runs([make_run("one", knn=0.5, scores={"knn_interval": [0.4, 0.61]})])[0]
    assert set(run.scores) == {"probe knn"} and run.scores["probe knn"].interval == (0.4, 0.61)
    assert run.scores["probe knn"].error == pytest.approx(0.21 / 3.92)


@pytest.fixture
def report(make_run, tmp_path, capsys) -> Path:
    runs = []
    for number, (mode, seed) in enumerate((m, s) for m in ("hpm", "random") for s in (0, 1)):
        runs.append(make_run(f"{mode}-{seed}", mode, seed, 0.5 + 0.1 * (mode == "hpm") + 0.01 * number))
        lines = [{"step": s, "seconds": 6.0 * s, "pixel_loss": 1 / (s + number), "lr": 0.1} for s in range(1, 11)]
        (runs[-1] / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ["report", *map(str, runs), "--vary", "mask.mode", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert (
        f"Next: open {tmp_path / 'out' / 'report.html'}; hpm-video export" in capsys.readouterr().out.splitlines()[-1]
    )
    return tmp_path / "out"


def test_report_says_what_the_runs_gave(report) -> None:
    text = (report / "report.md").read_text()
    assert "4 runs of 2 variants, with an equal number of training clips. Seeds of each variant: 2." in text
    assert "probe knn, compared with hpm: below: random (-0.080 ± 0.000)." in text
    assert "| hpm | 2 | 1e+12 | 0.0167 ± 0 | 0.605 ± 0.005 |" in text
    assert "| random-1 | 1 | random | 10 | - | 1e+12 | 0.0167 | 0.0167 |" in text
    assert (
        "kind pretrain; data set; size b; width 32; blocks 2; frames 4; pixels 16 x 16; batch 8; clips trained on 80"
        in text
    )
    for title, file in re.findall(r"!\[(.+)\]\((.+)\)", text):
        assert imread(report / file).shape[0] > 100, title


def test_published_numbers_stand_apart(report) -> None:
    ours, _, theirs = (report / "report.md").read_text().partition("## Published results of others")
    assert "None of these numbers was measured here" in theirs and "TrackMAE" in theirs and "| hpm" not in theirs
    assert not any(p.method in ours or p.source and p.source in ours for p in PUBLISHED)
    assert all(row.ssv2 is None or 60 < row.ssv2 < 80 for row in PUBLISHED)


def test_html_stands_alone(report) -> None:
    page = (report / "report.html").read_text()
    assert "http" not in page and "<script" not in page and "<link" not in page
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == 2 and all(p.startswith("data:image/png;base64,") for p in pictures)
    for picture in pictures:
        assert imread(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).ndim == 3


def test_html_can_be_read_without_a_mouse_or_a_screen(report) -> None:
    """What axe-core asks for: one main part, tables and code that a keyboard can scroll, no empty headings of columns."""
    page = (report / "report.html").read_text()
    assert page.count("<main>") == page.count("</main>") == 1 and "<th></th>" not in page
    assert "<pre>" not in page and page.count('<div class="wide" tabindex="0">') == page.count("<table>") > 0


def test_groups_are_compared_apart(make_run, tmp_path) -> None:
    runs = [make_run(n, knn=0.5, given={"data": {"name": n, "fingerprint": n}}) for n in ("one", "two")]
    write_comparison(runs, tmp_path / "out", group="data.name")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## data.name=one: Summary" in text and "## data.name=two: All runs" in text
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    with pytest.raises(UserError, match="data.nam: one has no such setting"):
        write_comparison(runs, tmp_path / "out", group="data.nam")


def test_fine_tuned_runs_are_compared_by_their_pretraining(make_run, tmp_path) -> None:
    tuned = []
    for mode in ("hpm", "random"):
        first = make_run(mode, mode)
        config = load_finetune_config(None, [*TUNE, f"init.weights={first}"])
        given = {"kind": "finetune", "flops": 2e12}
        tuned.append(make_run(f"tuned-{mode}", config=config, figures={"steps": 5, "top1": 0.6}, given=given))
    runs = open_runs(tuned)
    assert runs[0].flops == 3e12 and runs[0].hours == pytest.approx(2 / 60) and runs[0].scores["top1"].value == 0.6
    refuse(tuned, "pretraining.mask.mode: 'hpm' in tuned-hpm, 'random' in tuned-random")
    check_comparable(runs, [], ["mask.mode"], "steps")
    assert [v.label for v in group_variants(runs, ["mask.mode"])] == ["hpm", "random"]
    nothing = make_run(
        "nothing",
        config=load_finetune_config(None, TUNE),
        figures={"steps": 5},
        given={"kind": "finetune", "flops": 2e12},
    )
    both = open_runs([tuned[0], nothing])
    check_comparable(both, [], ["pretraining"], "steps")
    assert [v.label for v in group_variants(both, ["pretraining"])] == ["all runs", "random initialisation"]


def test_cost_of_weights_without_a_record_is_not_known(make_run, tmp_path) -> None:
    config = load_finetune_config(None, [*TUNE, f"init.weights={tmp_path / 'others.pth'}"])
    run = make_run("tuned", config=config, figures={"steps": 5, "top1": 0.6}, given={"kind": "finetune"})
    assert open_runs([run])[0].flops is None
    write_comparison([run], tmp_path / "out")
    assert (
        "Started from weights of unknown cost, so their hours are of fine-tuning alone: tuned."
        in (tmp_path / "out/report.md").read_text()
    )


def test_labels_name_what_differs_from_the_first(make_run) -> None:
    runs = [make_run("one"), make_run("two", teacher__view="partial"), make_run("three", "random", mask__ratio=0.5)]
    labels = [variant.label for variant in group_variants(open_runs(runs), ["mask.mode", "mask.ratio", "teacher"])]
    assert labels == ["hpm", "hpm, partial", "random, ratio=0.5"]


def test_surroundings_that_differ_are_said(make_run, tmp_path) -> None:
    runs = [make_run("one", knn=0.5), make_run("two", seed=1, knn=0.6, given={"world_size": 8})]
    file = runs[1] / "results.json"
    content = json.loads(file.read_text())
    content["versions"]["torch"], content["commit"] = "1.0", {"commit": "abc", "dirty": True}
    file.write_text(json.dumps(content))
    write_comparison(runs, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert (
        "Not the same in all runs: versions.torch, commit.commit." in text
        and "which the commit does not show: " in text
    )
    assert "used 2 kinds of machine: compare their FLOPs, not their hours" in text and ", 8 processes" in text


def test_a_fault_is_one_message(tmp_path, capsys) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "is not a run folder: it has no config.yaml; expected the folder of a run." in capsys.readouterr().err


def test_help_of_the_command(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", "--help"])
    assert end.value.code == 0 and "FLOPs within 5 % (compute)" in " ".join(capsys.readouterr().out.split())


def test_markdown_table_keeps_its_columns() -> None:
    text = to_markdown("T", [Paragraph("a"), Table(["a", "b"], [["x|y", "z"]])])
    assert text == "# T\n\na\n\n| a | b |\n| --- | --- |\n| x\\|y | z |\n"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.key)
def test_recipe_reports_are_those_of_the_configurations(recipe) -> None:
    written = describe_recipe(recipe, HOME / "configs", HOME / "benchmarks" / "results")
    kept = HOME / "benchmarks" / "reports" / f"{recipe.key}.md"
    assert kept.read_text() == written, "python benchmarks/report.py --recipes"
    for file in re.findall(r"(?:scripts|configs|benchmarks|hpm_video)/[\w/.]*\w", written):
        assert (HOME / file).exists(), file

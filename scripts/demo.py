"""Run the demo on two CPU cores in minutes: data, three ways to pretrain at equal compute, scores, report.html.

`make demo` starts it. Each part is the command that a user would run; only the comparison is computed here.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hpm_video.commands.output import say
from hpm_video.cores import num_free_cores
from hpm_video.errors import UserError
from hpm_video.files import replacing, write_json
from hpm_video.own_folder import own_folder, top_names

HOME = Path(__file__).resolve().parent.parent
RUNS = {  # keys on top of configs/pretrain/demo.yaml; all get the multiply-adds of the first
    "hpm": ["preset=hpm"],
    "random": ["preset=random_cross"],
    "videomae": ["mask.mode=random", "mask.decoded_share=1", "model.decoder_attention=self"],
}
MEASURES = {  # what the run with HPM logs of its masks
    "hardness_gain": "held_out/hardness_gain",
    "difficulty_visible": "difficulty_visible",
    "difficulty_correlation": "difficulty_correlation",
}
WRITTEN = ("data.log", *(f"{name}.log" for name in RUNS), "report.html", "results.json")


class Demo:
    """Run the parts in order. `commands` and `seconds` record what was run."""

    def __init__(self, out: Path, seed: int, extra: list[str], videos: tuple[int, int]) -> None:
        self.out, self.seed, self.extra, self.videos = out, seed, extra, videos
        self.data = out / "data"
        self.commands: list[str] = []
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, part: Callable[[], Any]) -> Any:
        """Run a part and record its seconds."""
        say(f"== {name}")
        began = time.perf_counter()
        result = part()
        self.seconds[name] = round(time.perf_counter() - began, 1)
        return result

    def command(self, name: str, words: list[str]) -> None:
        """Run a command and show its output. Raise UserError, which names the part, if it fails."""
        self.commands.append(" ".join(words).replace(f"{HOME}/", "").replace(f"{Path(sys.executable).parent}/", ""))
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        env["PYTHONUNBUFFERED"] = "1"
        log_file = self.out / f"{name}.log"
        try:
            started = subprocess.Popen(
                words, cwd=HOME, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            raise UserError(f"the part '{name}' could not be started: {error}. Try `make install`") from error
        with replacing(log_file) as draft, draft.open("w") as log, started as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                if not is_chatter(line):
                    say(line.rstrip())
        if process.returncode:
            raise UserError(
                f"the part '{name}' failed with exit status {process.returncode}; its output is in {log_file}"
            )

    def write_data(self) -> None:
        """Write the synthetic data set, if it does not exist yet."""
        if (self.data / "train.json").is_file():
            return
        train, validation = self.videos
        words = [sys.executable, "datasets/synthetic/prepare.py", str(self.data), "--train", str(train)]
        self.command("data", [*words, "--validation", str(validation), "--seed", str(self.seed)])

    def pretrain(self, run: str, *keys: str) -> dict[str, Any]:
        """Run the main job under DeepSpeed's launcher. Return its steps, seconds and ranks."""
        from torch.distributed.elastic.utils.distributed import get_free_port

        ranks, deepspeed = min(2, num_free_cores()), Path(sys.executable).parent / "deepspeed"
        launcher = [str(deepspeed), "--num_accelerators", str(ranks), "--master_port", str(get_free_port())]
        job = ["scripts/pretrain_ssv2.py", "--config", "configs/pretrain/demo.yaml", f"data.root={self.data}"]
        job += [f"train.output={self.out / run}", f"train.seed={self.seed}", *self.extra, *keys]
        self.command(run, [*launcher, *job])
        from hpm_video.runs.results import read_results

        results = read_results(self.out / run)
        seconds, steps = results["hours"] * 3600, results["figures"]["steps"]
        return {"steps": steps, "seconds": seconds, "ranks": results["world_size"]}

    def pretrain_all(self) -> dict[str, dict[str, Any]]:
        """Pretrain in each way, for as many steps as cost the multiply-adds of the first."""
        steps = plan_steps(self.extra)
        return {
            name: self.timed(f"pretraining: {name}", partial(self.pretrain, name, *keys, f"train.steps={steps[name]}"))
            for name, keys in RUNS.items()
        }

    def score(self) -> dict[str, Any]:
        """Score the frozen encoders, and single frames as a control."""
        from hpm_video.evals.frozen.features import extract_features, first_weights, open_clips
        from hpm_video.evals.frozen.probe import score_features
        from hpm_video.evals.frozen.single_frame import single_frame_scores
        from hpm_video.report.demo_report import SCORES
        from hpm_video.weights.load import load_encoder

        config, encoder = load_encoder(self.out / "hpm")
        encoders = {"untrained": first_weights(config), "hpm": encoder}
        encoders |= {name: load_encoder(self.out / name)[1] for name in RUNS if name != "hpm"}
        train, test = open_clips(config)
        results: dict[str, Any] = {}
        for name, network in encoders.items():
            features = [extract_features(network, clips, config.data) for clips in (train, test)]
            results[name] = score_features(features[0], features[1], seed=0)
            say(f"{name:12} " + "   ".join(f"{label} {results[name][key]:.3f}" for key, label in SCORES.items()))
        results["chance"], results["num_test"] = 1 / len(test.classes), len(test.labels)
        results["single_frame"] = single_frame_scores(train, test)
        say("one frame only: " + ", ".join(f"{k} {v:.3f}" for k, v in results["single_frame"].items()))
        return results

    def report(self, results: dict[str, Any]) -> None:
        """Write report.html."""
        from hpm_video.report.curves import draw_curves
        from hpm_video.report.demo_report import write_report
        from hpm_video.report.pictures import draw_clips, draw_difficulty

        pictures = {
            "Curves": draw_curves({name: self.out / name for name in RUNS}),
            "What was found hard, over the training": draw_difficulty(self.out / "hpm"),
            "Masks and reconstructions": draw_clips(self.out / "hpm"),
        }
        write_report(self.out / "report.html", results, pictures)

    def run(self) -> dict[str, Any]:
        with own_folder(self.out, "scripts/demo.py", find_older_demo) as own:
            own.reserve(WRITTEN)
            return self.run_parts()

    def run_parts(self) -> dict[str, Any]:
        """Run all parts and return the results."""
        from hpm_video.report.curves import read_metrics
        from hpm_video.runs.machine import describe_machine

        began = time.perf_counter()
        self.timed("data", self.write_data)
        runs = self.pretrain_all()
        results = self.timed("scores", self.score)
        results |= {"title": "HPM video: first report", "seed": self.seed, "runs": runs, "commands": self.commands}
        lines = read_metrics(self.out / "hpm")
        for key, name in MEASURES.items():
            results[key] = [line[name] for line in lines if name in line]
        results |= {"machine": describe_machine(), "seconds": self.seconds}
        self.timed("report", lambda: self.report(results))
        self.seconds["total"] = round(time.perf_counter() - began, 1)
        self.report(results)
        write_json(self.out / "results.json", results)
        return results


def find_older_demo(folder: Path) -> list[str] | None:
    """Return the files of an older demo, whose folder has no mark; None for any other folder."""
    return top_names(folder, *WRITTEN, "data", *RUNS)


def plan_steps(extra: list[str]) -> dict[str, int]:
    """Return the steps of each way to pretrain: those of the first, or as many as cost the same multiply-adds."""
    from hpm_video.config import load_config
    from hpm_video.costs.flops import equal_steps

    file = HOME / "configs" / "pretrain" / "demo.yaml"
    configs = {
        name: load_config(file, ["data.root=x", "train.output=none", *extra, *keys]) for name, keys in RUNS.items()
    }
    steps = configs["hpm"].train.steps
    assert steps is not None, "configs/pretrain/demo.yaml says train.steps"
    return {name: equal_steps(config, configs["hpm"], steps) for name, config in configs.items()}


def is_chatter(line: str) -> bool:
    """Return True if a line comes from the launcher or a library; such lines stay in the log file."""
    marks = ("[INFO]", "[WARNING]", "cpp_extension.py", "ops.comm", "Gloo", "[Gloo]")
    return not line.strip() or any(mark in line for mark in marks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1600, help="videos of the training split")
    parser.add_argument("--validation", type=int, default=2400, help="videos of the validation split")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys for both pretraining runs")
    given = parser.parse_args()
    try:
        results = Demo(given.out.resolve(), given.seed, given.overrides, (given.train, given.validation)).run()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"stopped. Rerun the command to resume (checkpoints are in {given.out})\n")
        return 130
    from hpm_video.report.demo_report import summarise

    for sentence in summarise(results):
        say(sentence)
    say(f"{results['seconds']['total']:.0f} s in total; report: {given.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

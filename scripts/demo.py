"""Run the demo on two CPU cores in minutes: data, HPM, random masks at equal time, scores, report.html.

`make demo` starts it. Each part is the command that a user would run; only the comparison is computed here.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpm_video.errors import UserError
from hpm_video.files import replacing, write_json
from hpm_video.own_folder import own_folder, top_names

HOME = Path(__file__).resolve().parent.parent
WRITTEN = ("data.log", "hpm.log", "random.log", "report.html", "results.json")
CALIBRATION = (8, 4)  # points of the schedule, repeats at each


class Demo:
    """Run the parts in their order. `commands` and `seconds` record what was run."""

    def __init__(self, out: Path, seed: int, extra: list[str], videos: tuple[int, int]) -> None:
        self.out, self.seed, self.extra, self.videos = out, seed, extra, videos
        self.data = out / "data"
        self.commands: list[str] = []
        self.seconds: dict[str, float] = {}
        self.cost = 1.0  # cost of an HPM step, in steps with random masks

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
        """Write the synthetic set, if it is not there yet."""
        if (self.data / "train.json").is_file():
            return
        train, validation = self.videos
        words = [sys.executable, "datasets/synthetic/prepare.py", str(self.data), "--train", str(train)]
        self.command("data", [*words, "--validation", str(validation), "--seed", str(self.seed)])

    def pretrain(self, run: str, *keys: str) -> dict[str, Any]:
        """Run the main job under DeepSpeed's launcher. Return its steps, seconds and ranks."""
        ranks = min(2, len(os.sched_getaffinity(0)))
        launcher = [
            str(Path(sys.executable).parent / "deepspeed"),
            "--num_accelerators",
            str(ranks),
            "--master_port",
            str(free_port()),
        ]
        job = ["scripts/pretrain_ssv2.py", "--config", "configs/pretrain/demo.yaml", f"data.root={self.data}"]
        job += [f"train.output={self.out / run}", f"train.seed={self.seed}", *self.extra, *keys]
        self.command(run, [*launcher, *job])
        from hpm_video.runs.results import read_results

        results = read_results(self.out / run)
        seconds, steps = results["hours"] * 3600, results["figures"]["steps"]
        return {"steps": steps, "seconds": seconds, "ranks": results["world_size"]}

    def pretrain_both(self) -> dict[str, dict[str, Any]]:
        """Pretrain with HPM, then with random masks for as many steps as take the same time."""
        hpm = self.timed("pretraining: hpm", lambda: self.pretrain("hpm", "mask.mode=hpm"))
        self.cost = self.timed("calibration", lambda: relative_cost(self.out / "hpm", hpm["steps"], hpm["ranks"]))
        say(f"an HPM step takes {self.cost:.2f} times as long as one with random masks")
        steps = max(1, round(hpm["steps"] * self.cost))
        random = self.timed(
            "pretraining: random", lambda: self.pretrain("random", "mask.mode=random", f"train.steps={steps}")
        )
        return {"hpm": hpm, "random": random}

    def score(self) -> dict[str, Any]:
        """Score the frozen encoders, and single frames."""
        from hpm_video.evals.frozen.features import extract_features, first_weights, open_clips
        from hpm_video.evals.frozen.probe import score_features
        from hpm_video.evals.frozen.single_frame import single_frame_scores
        from hpm_video.weights.load import load_encoder

        config, encoder = load_encoder(self.out / "hpm")
        encoders = {"untrained": first_weights(config), "random": load_encoder(self.out / "random")[1], "hpm": encoder}
        train, test = open_clips(config)
        results: dict[str, Any] = {}
        for name, network in encoders.items():
            features = [extract_features(network, clips, config.data) for clips in (train, test)]
            results[name] = score_features(features[0], features[1], seed=0)
            say(f"{name:10} linear probe {results[name]['linear']:.3f}   kNN {results[name]['knn']:.3f}")
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
            "Curves": draw_curves({"hpm": self.out / "hpm", "random": self.out / "random"}),
            "What the teacher found hard, over the training": draw_difficulty(self.out / "hpm"),
            "Masks and reconstructions on held-out clips": draw_clips(self.out / "hpm"),
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
        runs = self.pretrain_both()
        results = self.timed("scores", self.score)
        results |= {"title": "HPM video: first report", "seed": self.seed, "runs": runs, "commands": self.commands}
        results["cost_of_hpm_step"] = self.cost
        gains = [
            line["held_out/hardness_gain"]
            for line in read_metrics(self.out / "hpm")
            if "held_out/hardness_gain" in line
        ]
        results |= {"hardness_gain": gains, "machine": describe_machine(), "seconds": self.seconds}
        self.timed("report", lambda: self.report(results))
        self.seconds["total"] = round(time.perf_counter() - began, 1)
        self.report(results)
        write_json(self.out / "results.json", results)
        return results


def find_older_demo(folder: Path) -> list[str] | None:
    """Return the files of an older demo, whose folder has no mark; None for any other folder."""
    return top_names(folder, *WRITTEN, "data", "hpm", "random")


def relative_cost(run: Path, steps: int, ranks: int) -> float:
    """Return the seconds of an HPM step divided by those of a step with random masks, a mean over the schedule.

    Both are timed in turns in one process, and the fastest of the turns counts. So other load on the machine slows both or
    does not count. (Rates of runs one after the other differed by a factor of two on a shared machine.)
    """
    import numpy as np
    import torch

    from hpm_video.data.transforms import Normalise
    from hpm_video.report.pictures import held_out_clips
    from hpm_video.runs.settings import load_run_config

    torch.set_num_threads(1)
    configs = {mode: load_run_config(run) for mode in ("hpm", "random")}
    data = configs["hpm"].data
    frames = Normalise(data)(held_out_clips(configs["hpm"], data.num_held_out))
    places, turns = CALIBRATION
    best = {mode: np.full(places, np.inf) for mode in configs}
    updates = {}
    for mode, config in configs.items():
        config.mask.mode, config.optim.batch_size = mode, config.optim.batch_size // ranks
        clip = frames[torch.arange(config.optim.batch_size) % len(frames)]
        updates[mode] = make_update(config, clip, steps)
        updates[mode](steps - 1)  # the first step is slower
    for place, now in enumerate(np.linspace(0, steps - 1, places).astype(int).tolist()):
        for _ in range(turns):
            for mode, update in updates.items():
                began = time.perf_counter()
                update(now)
                best[mode][place] = min(best[mode][place], time.perf_counter() - began)
    return float(best["hpm"].sum() / best["random"].sum())


def make_update(config: Any, clip: Any, steps: int) -> Callable[[int], None]:
    """Return a function that runs one whole training step on this clip, at a given step of the schedule."""
    from hpm_video.method.step import PretrainStep
    from hpm_video.models.student import build_student
    from hpm_video.train.engines.plain import PlainEngine
    from hpm_video.types import BatchSlice

    config.engine.micro_batch_size = None
    student = build_student(config)
    step, engine = PretrainStep(config, student, clip.device), PlainEngine(student, config, clip.device)

    def update(now: int) -> None:
        result, _ = step(engine, clip, BatchSlice(0, len(clip), len(clip)), now, steps)
        engine.backward(result.loss)
        engine.step(1e-4)
        step.after_update(engine, now, steps)

    return update


def free_port() -> int:
    """Return a free port, so that several jobs can run on one machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_chatter(line: str) -> bool:
    """Return whether a line comes from the launcher or a library; such lines stay in the log file."""
    marks = ("[INFO]", "[WARNING]", "cpp_extension.py", "ops.comm", "Gloo", "[Gloo]")
    return not line.strip() or any(mark in line for mark in marks)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1600, help="videos of the training split")
    parser.add_argument("--validation", type=int, default=600, help="videos of the validation split")
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

"""Kill training runs at random moments and resume them: each run must end like one that was never killed.

    python scripts/storm.py runs/storm --kills 50

For each engine (DDP, FSDP and DeepSpeed's ZeRO 0 to 3 on two processes) the script trains a reference without a stop. It then trains
the same run and sends SIGKILL at random moments to the launcher, a rank or a loader worker. Or the process kills itself
while it writes a checkpoint or a file. The script checks three things. Every process has ended within 60 s of a kill. The
last checkpoint equals the reference bit for bit. metrics.jsonl has every step once, with the reference's losses.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from hpm_video.commands.output import say
from hpm_video.errors import UserError
from hpm_video.files import write_json
from hpm_video.own_folder import OwnFolder
from hpm_video.preprocess.encode import write_video

HOME = Path(__file__).resolve().parent.parent
STEPS, LIMIT_S, START_LIMIT_S = 12, 60.0, 300.0
KEYS = (
    "data.num_frames=4 data.frame_size_px=[16,16] data.num_workers=1 data.num_held_out=2 model.patch_px=4 model.width=32 "
    "model.depth=2 model.num_heads=2 model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 mask.ratio=0.75 "
    "objective.target=teacher_features teacher.momentum_start=0.9 teacher.momentum_end=0.9 model.drop_path=0.2 optim.batch_size=8 "
    f"engine.micro_batch_size=2 train.steps={STEPS} train.log_every_steps=1 train.measure_every_steps=4 "
    "train.save_every_steps=2 train.num_pictures=1 engine.precision=fp32 engine.num_threads=1 engine.lost_after_s=20"
).split()
ENGINES = ("plain", "zero0", "zero1", "zero2", "zero3", "ddp", "fsdp")
LAUNCHERS = ("launch", "bin/deepspeed", "torch.distributed.run")  # these start the processes that train
TARGETS = ("launcher", "rank", "worker", "save", "rewrite")
MARK, MOMENT = "HPM_STORM_RUN", "HPM_STORM_MOMENT"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the runs: new, empty, or of an earlier storm")
    parser.add_argument("--kills", type=int, default=50, help="kills over all engines (50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and targets (0)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="engines to test (all)")
    given = parser.parse_args()
    try:
        own = OwnFolder.claim(given.out, "storm")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    videos = make_videos(given.out / "videos")
    rng, rows = random.Random(given.seed), []
    for number, engine in enumerate(given.engines):
        kills = given.kills // len(given.engines) + (number < given.kills % len(given.engines))
        rows.append(Storm(engine, videos, given.out / f"{engine}-{time.time_ns()}", rng).run(kills))
        write_json(own.file("storm.json"), rows)
    good = all(row["bitwise"] and row["rows_equal"] and row["ended"] for row in rows)
    say(f"{sum(row['kills'] for row in rows)} kills; {'all runs equal their references' if good else 'FAULTS'}")
    return int(not good)


def make_videos(root: Path) -> Path:
    """Write twelve small videos and return their folder."""
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        if not (root / f"{number}.mkv").exists():
            write_video(root / f"{number}.mkv", rng.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8), 10)
    return root


class Storm:
    """Train the reference and the killed runs of one engine."""

    def __init__(self, engine: str, videos: Path, out: Path, rng: random.Random) -> None:
        self.engine, self.videos, self.out, self.rng = engine, videos, out, rng
        self.ended = True

    def run(self, kills: int) -> dict:
        """Run until `kills` kills are done, and return the checks."""
        reference = self.out / "reference"
        self.start(reference).wait()
        done, run_number, equal, rows_equal, targets = 0, 0, True, True, []
        while done < kills:
            run = self.out / f"run-{run_number}"
            for _ in range(min(4, kills - done)):  # then the run may finish
                target = TARGETS[done % len(TARGETS)]
                done += self.kill_once(run, target)
                targets.append(target)
            status = self.start(run).wait()
            equal &= status == 0 and same_files(reference, run)
            rows_equal &= read_rows(run) == read_rows(reference)
            run_number += 1
        row = {"engine": self.engine, "kills": done, "targets": targets, "bitwise": equal, "rows_equal": rows_equal}
        row["ended"] = self.ended
        say(json.dumps(row))
        return row

    def start(self, run: Path, moment: str = "") -> subprocess.Popen:
        """Start the command in a session of its own. Its processes carry the mark."""
        home = Path(sys.executable).parent
        path = f"{home}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "DS_ACCELERATOR": "cpu", MARK: str(run), MOMENT: moment}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
        keys = [*KEYS, f"data.root={self.videos}", f"train.output={run}"]
        words = [sys.executable, str(Path(__file__).resolve()).replace("storm.py", "storm_child.py"), *keys]
        if self.engine != "plain":
            from torch.distributed.elastic.utils.distributed import get_free_port

            port = str(get_free_port())
            if self.engine.startswith("zero"):
                words = [str(home / "deepspeed"), "--num_accelerators", "2", "--master_port", port, *words[1:]]
                words.append(f"engine.zero_stage={self.engine[-1]}")
            else:
                launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
                words = [sys.executable, *launcher, *words[1:], f"engine.kind={self.engine}"]
        run.parent.mkdir(parents=True, exist_ok=True)
        with (self.out / f"{run.name}.log").open("a") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=env, start_new_session=True)

    def kill_once(self, run: Path, target: str) -> int:
        """Kill a process of a run; return 1, or 0 if the run ended first."""
        moment = f"{target}:{self.rng.randrange(1, 12)}" if target in ("save", "rewrite") else ""
        before, wanted = count_rows(run), self.rng.randrange(0, 4)
        process = self.start(run, moment)
        until = time.monotonic() + START_LIMIT_S
        killed = False
        while not killed and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            if moment or not (count_rows(run) != before or count_rows(run) > wanted):
                continue
            time.sleep(self.rng.random() * 0.5)
            victims = find_victims(run, target, process.pid)
            if victims:
                killed = True
                kill(self.rng.choice(victims))
        began = time.monotonic()
        while find_marked(run) and time.monotonic() - began < LIMIT_S:
            if process.poll() is None and target == "worker" and time.monotonic() - began > LIMIT_S / 2:
                break  # the run continues without that worker, to the next kill or its end
            time.sleep(0.1)
        if find_marked(run) and target != "worker":
            self.ended = False
        for pid in find_marked(run):
            kill(pid)
        return int(killed or process.wait() != 0)  # a moment that comes after the run's last write kills nothing


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def find_marked(run: Path) -> list[int]:
    """Return the processes that carry the mark of a run, except zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(run) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def find_victims(run: Path, target: str, launcher: int) -> list[int]:
    """Return the processes of a kind: the launcher, the ranks, or their loader workers."""
    if target == "launcher":
        return [launcher]
    parents = {}  # of the processes that train
    for pid in find_marked(run):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            command = " ".join(process.cmdline())
            if "storm_child.py" in command and not any(word in command for word in LAUNCHERS):
                parents[pid] = process.ppid()
    workers = [pid for pid in parents if parents[pid] in parents]
    return workers if target == "worker" else [pid for pid in parents if pid not in workers]


def count_rows(run: Path) -> int:
    """Return the number of lines of metrics.jsonl."""
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def read_rows(run: Path) -> list[tuple]:
    """Return (step, loss, norm of the gradient) of every line. Raise ValueError for half a line."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def same_files(one: Path, other: Path) -> bool:
    """Return True if the last checkpoints and the encoders are equal, byte for byte."""
    step = f"checkpoints/step-{STEPS:08d}"
    names = [f"{step}/{part}.safetensors" for part in ("student", "teacher", "optimizer")] + ["encoder.safetensors"]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


if __name__ == "__main__":
    sys.exit(main())

"""Runs each scenario of `test_reading_processes.py` in a process of its own, forked so that torch is imported once, and waits for it
with a limit. Prints a line of JSON for each: how it ended, what it said, and which of its workers are left."""

import gc
import json
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback

import psutil
import torch

from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.source import open_source
from hpm_video.types import Failure, UserError

logging.basicConfig(format="%(message)s")
LIMIT_S = 300.0
STEPS = 30
PADDED = "padding.mp4"  # no file: the failures of this name only make messages long


class Files(ClipDataset):
    """`trouble` is called in a worker with the number of each batch that it reads."""

    trouble = staticmethod(lambda number: None)
    padding = 0  # characters of a failure in each batch: more than a pipe holds makes a worker wait in a write
    num_read = 0

    def __getitems__(self, keys):
        samples = super().__getitems__(keys)
        self.trouble(self.num_read)
        self.num_read += 1
        if self.padding:
            samples[0] = samples[0]._replace(failures=(*samples[0].failures, Failure(PADDED, "x" * self.padding)))
        return samples


def dataset(root: str, **keys) -> Files:
    config = DataConfig(root=root, num_frames=2, frame_size_px=[16, 16], **({"time_limit_s": 60.0} | keys))
    return Files(open_source(config, "train"), config, 0, training=True)


def stream(data: Files, num_workers: int = 2):
    given = make_loader(data, 2, 2, 0, 1, 0, num_workers, STEPS)
    if num_workers:  # on a busy machine the supervisor would not see them all while they live
        os.write(STARTED, "".join(f"{child.pid} " for child in workers()).encode())
    return given


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def workers() -> list[psutil.Process]:
    return psutil.Process().children()


signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in its background ignores it


def kill(which: int, number: int = signal.SIGKILL) -> None:
    os.kill(workers()[which].pid, number)


def later(do, after_s: float) -> None:
    threading.Timer(after_s, do).start()


def check(root: str, data: Files, disturb=lambda: None) -> None:
    """All batches that come are right; a fault is a UserError.

    A signal of a crash in the middle of a decode looks like a crash of the decoder: then the file is named and replaced.
    """
    found = stream(data)
    disturb()
    told, num = "", 0
    try:
        for batch in found:
            replaced = any(failure.path != PADDED for failure in batch.failures)
            assert replaced or all(
                torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(batch[:3], EXPECTED[num][:3], strict=True)
            )
            num += 1
    except UserError as error:
        told = f": {error}"
    assert told or num == STEPS
    say(f"{num} right{told}")
    os._exit(0)  # how a process ends is looked at by others


def end_with(how: str):
    def run(root: str) -> None:
        given = stream(dataset(root))
        next(given)
        if how == "exception":
            raise ValueError("meant")
        if how == "exit":
            sys.exit(3)
        if how == "os._exit":
            os._exit(4)
        if how == "collected":
            del given
            say(f"{len(workers())} workers")
        if how in ("SIGINT", "SIGTERM", "SIGKILL"):
            later(lambda: os.kill(os.getpid(), getattr(signal, how)), 0.2)
            time.sleep(LIMIT_S)
        if how == "stopped worker":
            kill(0, signal.SIGSTOP)

    return run


def stuck_worker(root: str) -> None:
    data = dataset(root)
    data.trouble = lambda number: time.sleep(1000)
    stream(data)
    time.sleep(0.5)


def killed_while_reading(root: str) -> None:
    data = dataset(root)
    data.trouble = lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == 2 else None
    check(root, data)


def killed_after_an_answer(root: str) -> None:
    data = dataset(root)
    data.trouble = lambda number: later(lambda: os.kill(os.getpid(), signal.SIGKILL), 0.02) if number == 2 else None
    check(root, data)


def killed_in_a_write(root: str) -> None:
    data = dataset(root)
    data.padding = 300_000
    check(root, data, lambda: (time.sleep(1.0), kill(0)))


def crashed_while_others_wait(root: str) -> None:
    data = dataset(root)
    data.trouble = lambda number: os.kill(os.getpid(), signal.SIGSEGV) if number == 0 else None
    check(root, data, lambda: time.sleep(1.0))


def stopped_and_replaced(root: str) -> None:
    check(root, dataset(root, time_limit_s=2.0), lambda: kill(0, signal.SIGSTOP))


def random_moment(seed: int):
    def run(root: str) -> None:
        draw = random.Random(seed)
        data = dataset(root, time_limit_s=2.0)
        data.padding = draw.choice([0, 0, 100_000])
        data.trouble = lambda number: time.sleep(0.01)
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP, signal.SIGTERM])
        check(root, data, lambda: later(lambda: kill(draw.randrange(2), number), draw.random() * 0.2))

    return run


SCENARIOS = {f.__name__: f for f in (stuck_worker, killed_while_reading, killed_after_an_answer, killed_in_a_write)}
SCENARIOS |= {f.__name__: f for f in (crashed_while_others_wait, stopped_and_replaced)}
ENDS = "normal", "exception", "exit", "os._exit", "collected", "SIGINT", "SIGTERM", "SIGKILL", "stopped worker"
SCENARIOS |= {f"end: {how}": end_with(how) for how in ENDS}
SCENARIOS |= {f"random {seed}": random_moment(seed) for seed in range(40)}


def supervise(process: int, output: int, started: int) -> dict:
    """Wait for a scenario, whose workers are its children. It writes their numbers to `started`."""
    seen: set[int] = set()
    until, code = time.monotonic() + LIMIT_S, None
    while code is None and time.monotonic() < until:
        pid, status = os.waitpid(process, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if pid else None
        if code is None:
            seen |= {child.pid for child in psutil.Process(process).children()}
            time.sleep(0.1)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    os.set_blocking(started, False)
    seen |= {int(word) for word in os.read(started, 1000).split()}
    until = time.monotonic() + 120
    while (left := [pid for pid in seen if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(output) as said:
        return {"code": code, "said": "" if left else said.read(), "workers": len(seen), "left": len(left)}


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


EXPECTED = list(stream(dataset(sys.argv[1]), 0))
gc.freeze()  # or each end of a process copies all of its memory
for name in sys.argv[2:]:
    began = time.monotonic()
    out, into = os.pipe()
    started, STARTED = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(into, 1)
        os.dup2(into, 2)
        os.close(into)
        os.close(out)
        os.close(started)
        SCENARIOS[name](sys.argv[1])
        break  # to the end of the program, as any program ends
    os.close(into)
    try:
        result = supervise(process, out, started)
    except Exception:
        result = {"code": traceback.format_exc()}
    os.close(started)
    os.close(STARTED)
    say(json.dumps({"name": name, "seconds": time.monotonic() - began, **result}))

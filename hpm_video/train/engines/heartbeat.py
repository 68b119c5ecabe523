"""Heartbeats between the processes of a run: if one process is lost, all others end within a known time.

A collective operation waits minutes for a lost node, and cannot name it. So a thread of each rank increments a number in the
store where the processes met. Rank 0 watches all numbers and writes which rank is lost; the others watch rank 0. A slow rank
keeps counting. A second thread ends the process if a rank is lost or the store itself does not answer.
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

BEAT_S = 5.0
ENDED = "ended"
PREFIX = "hpm_video/"


@runtime_checkable
class Store(Protocol):
    """The methods of torch's stores that are used here."""

    def set(self, key: str, value: str) -> Any:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Return a value."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Return True if all keys exist."""
        ...


class Heartbeat:
    """The heartbeat of this rank, and its knowledge of the others. `lost`: a description of the lost rank; None = no rank."""

    def __init__(self, store: Store, rank: int, world_size: int, limit_s: float, address: str = "") -> None:
        """Take the store, which the process of rank 0 holds at `address`."""
        self.store, self.rank, self.limit_s = store, rank, limit_s
        self.watched = [other for other in range(world_size) if other != rank] if rank == 0 else [0]
        self.count, self.names = 0, {other: "" if other else address for other in self.watched}  # hosts
        self.seen: dict[int, tuple[str, float]] = {}  # last value, and when it changed
        self.answered_s = time.monotonic()  # when the store last answered
        self.lost: str | None = None

    def beat(self, now_s: float) -> None:
        """Exchange heartbeats once. Raises the errors of the store."""
        self.count += 1
        self.store.set(f"{PREFIX}{self.rank}", f"{self.count} {socket.gethostname()}")
        for other in self.watched:
            key = f"{PREFIX}{other}"
            value = self.store.get(key).decode() if self.store.check([key]) else ""
            if self.seen.get(other, (None, 0.0))[0] != value:
                self.seen[other] = (value, now_s)
            if value == ENDED:
                continue
            self.names[other] = value.partition(" ")[2] or self.names[other]
            if now_s - self.seen[other][1] > self.limit_s:
                self.lost = self._describe(other)
        if self.rank == 0 and self.lost:
            self.store.set(f"{PREFIX}lost", self.lost)
        elif self.store.check([f"{PREFIX}lost"]):
            self.lost = self.store.get(f"{PREFIX}lost").decode()
        self.answered_s = now_s

    def _describe(self, other: int) -> str:
        host = f" on {self.names[other]}" if self.names.get(other) else ""
        return f"rank {other}{host} has given no sign of life for {self.limit_s:g} s"

    def find_silence(self, now_s: float) -> str | None:
        """Return a description of the lost rank. If the store, which rank 0 holds, does not answer, that is rank 0."""
        if self.lost is not None or now_s - self.answered_s <= self.limit_s:
            return self.lost
        if self.rank:
            return self._describe(0)
        return f"the store of the processes has not answered for {self.limit_s:g} s"

    def end(self) -> None:
        """Write that this rank has ended normally."""
        self.store.set(f"{PREFIX}{self.rank}", ENDED)


class _Threads:
    """The two heartbeat threads of a process."""

    def __init__(self, heart: Heartbeat) -> None:
        self.heart, self.ended = heart, threading.Event()
        self.pause_s = min(BEAT_S, heart.limit_s / 6)
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True, name=f"hpm_video {work.__name__}").start()

    def _beat(self) -> None:
        while not self.ended.is_set():
            try:
                self.heart.beat(time.monotonic())
            except Exception:  # the store is gone: `_watch` measures for how long
                time.sleep(0.1)
            self.ended.wait(self.pause_s)

    def _watch(self) -> None:
        before_s = time.monotonic()
        while not self.ended.wait(self.pause_s):
            now_s = time.monotonic()
            if now_s - before_s > self.heart.limit_s / 2:  # this process was suspended for a while
                self.heart.answered_s = now_s
                self.heart.seen = {other: (value, now_s) for other, (value, _) in self.heart.seen.items()}
            before_s = now_s
            lost = self.heart.find_silence(now_s)
            if lost and not self.ended.is_set():
                sys.stderr.write(
                    f"error: {lost} (engine.lost_after_s): its process or node ended, or the network broke. All ranks stop. "
                    "Checkpoints are whole; the same command resumes\n"
                )
                sys.stderr.flush()
                os._exit(1)


_running: _Threads | None = None


def start(rank: int, world_size: int, limit_s: float) -> None:
    """Start the heartbeat of this process, once. The processes have met at MASTER_ADDR."""
    global _running
    if _running is not None or world_size < 2:
        return
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=limit_s), wait_for_workers=False)
    _running = _Threads(Heartbeat(store, rank, world_size, limit_s, address))
    atexit.register(finish)


def finish() -> None:
    """Stop the heartbeat, and write for the other ranks that this process ended normally."""
    global _running
    if _running is not None:
        _running.ended.set()
        heart, _running = _running.heart, None
        thread = threading.Thread(target=_write_end, args=(heart,), daemon=True)
        thread.start()
        thread.join(2.0)  # a store that is gone may never answer


def _write_end(heart: Heartbeat) -> None:
    with contextlib.suppress(Exception):
        heart.end()

"""Signs of life between the processes of a run, so that the loss of one ends all of them within a stated time.

A collective operation that waits for a lost node waits for minutes, and cannot say for whom. So a thread of each rank counts up
a number in the store where the processes met; rank 0 watches all numbers and writes who is lost, the others watch rank 0. A
slow rank counts on. A second thread ends the process if the store itself does not answer.
"""

import atexit
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
    """The part of torch's stores that is used."""

    def set(self, key: str, value: str) -> Any:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Return a value."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys exist."""
        ...


class Heartbeat:
    """The signs of life of this rank, and what it knows of the others. `lost`: who is, in words; None = nobody."""

    def __init__(self, store: Store, rank: int, world_size: int, limit_s: float) -> None:
        self.store, self.rank, self.limit_s = store, rank, limit_s
        self.watched = [other for other in range(world_size) if other != rank] if rank == 0 else [0]
        self.count, self.names = 0, dict.fromkeys(self.watched, "")
        self.seen: dict[int, tuple[str, float]] = {}  # last value, and when it changed
        self.answered_s = time.monotonic()  # of the store
        self.lost: str | None = None

    def beat(self, now_s: float) -> None:
        """Exchange signs of life once. Raises what the store raises."""
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
        """Return who is lost; the place of rank 0 if the store, which is there, does not answer."""
        if self.lost is None and now_s - self.answered_s > self.limit_s:
            return (
                self._describe(0)
                if self.rank
                else f"the store of the processes has not answered for {self.limit_s:g} s"
            )
        return self.lost

    def end(self) -> None:
        """Tell the others that this rank has ended as it should."""
        self.store.set(f"{PREFIX}{self.rank}", ENDED)


class _Threads:
    """The two threads of a process."""

    def __init__(self, heart: Heartbeat) -> None:
        self.heart, self.ended = heart, threading.Event()
        self.pause_s = min(BEAT_S, heart.limit_s / 6)
        for work in (self._beat, self._watch):
            threading.Thread(target=work, daemon=True, name=f"hpm_video {work.__name__}").start()

    def _beat(self) -> None:
        while not self.ended.wait(self.pause_s):
            try:
                self.heart.beat(time.monotonic())
            except Exception:  # the store is gone: `_watch` counts the time
                time.sleep(0.1)

    def _watch(self) -> None:
        before_s = time.monotonic()
        while not self.ended.wait(self.pause_s):
            now_s = time.monotonic()
            if now_s - before_s > self.heart.limit_s / 2:  # this process was stopped for a while
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
    """Start the signs of life of this process, once. The processes have met at MASTER_ADDR."""
    global _running
    if _running is not None or world_size < 2:
        return
    from torch.distributed import TCPStore

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=limit_s), wait_for_workers=False)
    _running = _Threads(Heartbeat(store, rank, world_size, limit_s))
    atexit.register(finish)


def finish() -> None:
    """End the signs of life, and tell the others that it is the regular end of this process."""
    global _running
    if _running is not None:
        _running.ended.set()
        threads, _running = _running, None
        teller = threading.Thread(target=_tell_end, args=(threads.heart,), daemon=True)
        teller.start()
        teller.join(2.0)  # a store that is gone may never answer


def _tell_end(heart: Heartbeat) -> None:
    try:
        heart.end()
    except Exception:
        return

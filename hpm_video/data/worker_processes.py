"""Start worker processes and exchange messages with them: by fork, or by spawn where a process cannot be forked safely."""

import multiprocessing
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch.multiprocessing

# macOS: forked processes crash in Apple's frameworks. Windows has no fork.
START_METHOD = "fork" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"
ORPHAN_CHECK_S = 1.0
LENGTH = struct.Struct("<I")
SLOT = struct.Struct("<i")


class Message(NamedTuple):
    """A message of a worker: its batch is ready, reading the batch failed, or a report about the store."""

    kind: str  # batch, fault, store
    content: Any  # failures of the batch; (is it a UserError, text); arguments of `store.log_store`


class Channel(NamedTuple):
    """The worker's ends of its pipes. A closed pipe ends `send` with BrokenPipeError."""

    read_slot: Callable[[], int | None]  # waits for the next task; None: there is no other process any more
    send: Callable[[Message], None]


class Worker:
    """One worker process, as seen by the process that waits for it."""

    pid: int
    message_pipe: Any  # what multiprocessing.connection.wait takes

    def __init__(self) -> None:
        self.results, self.store_reports = deque[Message](), deque[Any]()
        self.closed = False  # its end of the pipe: it has ended, or is about to
        self.status: int | None = None  # exit status; below 0: the signal that ended it

    def request(self, slot: int) -> None:
        """Send the number of the slot that holds the keys of a batch."""
        raise NotImplementedError

    def receive(self) -> None:
        """Take the messages that have arrived."""
        raise NotImplementedError

    def has_ended(self) -> bool:
        """Return True if the process has ended."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill the process, without waiting for its end."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the pipes."""
        raise NotImplementedError

    def is_stopped(self) -> bool:
        """Return whether the process is stopped (SIGSTOP) and so cannot answer."""
        import psutil

        try:
            return psutil.Process(self.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        except psutil.Error:
            return False

    def _sort(self, message: Message) -> None:
        if message.kind == "store":
            self.store_reports.append(message.content)
        else:
            self.results.append(message)


def start_worker(run: Callable[[Channel], None]) -> Worker:
    """Start a process that calls run(channel). Raises OSError."""
    return ForkedWorker(run) if START_METHOD == "fork" else SpawnedWorker(run)


class ForkedWorker(Worker):
    """A forked process. It has all that its parent had read, at once and without copies."""

    def __init__(self, run: Callable[[Channel], None]) -> None:
        super().__init__()
        parent = os.getpid()
        task_source, self.task_pipe = os.pipe()
        self.message_pipe, message_sink = os.pipe()
        self.buffer = bytearray()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.task_pipe)
                os.close(self.message_pipe)
                threading.Thread(target=_end_with_parent, args=[parent], daemon=True).start()
                run(Channel(partial(_read_slot, task_source), partial(_send, message_sink)))
                os._exit(0)
            finally:
                os._exit(1)
        os.close(task_source)
        os.close(message_sink)  # so that no other worker inherits it, and its end is seen here at once
        os.set_blocking(self.message_pipe, False)
        os.set_blocking(self.task_pipe, False)

    def request(self, slot: int) -> None:
        with suppress(BrokenPipeError, BlockingIOError):  # it has ended: detected when its batch is the next one
            os.write(self.task_pipe, SLOT.pack(slot))

    def receive(self) -> None:
        """Take the messages that have arrived. The last one may be incomplete."""
        while not self.closed:
            try:
                part = os.read(self.message_pipe, 1 << 16)
            except BlockingIOError:
                break
            self.buffer += part
            self.closed = not part
        while len(self.buffer) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self.buffer)
            if len(self.buffer) < LENGTH.size + size:
                break
            self._sort(pickle.loads(self.buffer[LENGTH.size : LENGTH.size + size]))
            del self.buffer[: LENGTH.size + size]

    def has_ended(self) -> bool:
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # someone else has waited for it
                pid, status = self.pid, 0
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.closed = True
        os.close(self.task_pipe)
        os.close(self.message_pipe)


class SpawnedWorker(Worker):
    """A new process, which imports this program and gets a copy of the data set; the batches lie in shared memory."""

    def __init__(self, run: Callable[[Channel], None]) -> None:
        super().__init__()
        context = torch.multiprocessing.get_context("spawn")  # its pickles refer to shared tensors
        task_source, self.task_pipe = context.Pipe(duplex=False)
        self.message_pipe, message_sink = context.Pipe(duplex=False)
        self.process = context.Process(target=_run_spawned, args=(run, task_source, message_sink), daemon=True)
        self.process.start()
        self.pid = self.process.pid or 0
        task_source.close()
        message_sink.close()

    def request(self, slot: int) -> None:
        with suppress(OSError):  # it has ended: detected when its batch is the next one
            self.task_pipe.send_bytes(SLOT.pack(slot))

    def receive(self) -> None:
        try:
            while not self.closed and self.message_pipe.poll():
                self._sort(pickle.loads(self.message_pipe.recv_bytes()))
        except (EOFError, OSError):
            self.closed = True

    def has_ended(self) -> bool:
        if self.status is None:
            self.status = self.process.exitcode
        return self.status is not None

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        self.closed = True
        self.task_pipe.close()
        self.message_pipe.close()


def _run_spawned(run: Callable[[Channel], None], task_source: Connection, message_sink: Connection) -> None:
    def read_slot() -> int | None:
        try:
            return int(SLOT.unpack(task_source.recv_bytes())[0])
        except (EOFError, OSError):
            return None

    threading.Thread(target=_end_with_spawner, daemon=True).start()
    run(Channel(read_slot, lambda message: message_sink.send_bytes(pickle.dumps(message))))


def _end_with_spawner() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def _read_slot(task_source: int) -> int | None:
    task = os.read(task_source, SLOT.size)
    return int(SLOT.unpack(task)[0]) if len(task) == SLOT.size else None


def _send(message_sink: int, message: Message) -> None:
    content = pickle.dumps(message)
    left = memoryview(LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(message_sink, left) :]

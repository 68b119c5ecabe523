"""Call a function in a process of its own: if a library crashes, hangs or prints there, this process gets an answer and continues.

The other process runs this module: `python -m hpm_video.profiling.subprocess MODULE:FUNCTION`, argument and answer as JSON.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from hpm_video.errors import UserError, first_line

Argument = Mapping[str, Any]


class Answer(NamedTuple):
    """The return value of the function, or the reason why there is none."""

    value: dict[str, Any]
    fault: str | None = None


class Subprocess:
    """A call of a function in a process of its own, which starts at once. It and its children are killed at the end of the block."""

    def __init__(self, function: Callable[[Argument], dict], argument: Argument, limit_s: float) -> None:
        """Start the call. `function`: of a module; `argument`: values that JSON can hold; the time limit starts now."""
        command = [sys.executable, "-m", "hpm_video.profiling.subprocess", f"{function.__module__}:{function.__name__}"]
        self.stderr, self.until, self.limit_s = tempfile.TemporaryFile(), time.monotonic() + limit_s, limit_s
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.stderr}
        self.process = subprocess.Popen(command, start_new_session=True, **pipes)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already: `answer` tells how
            self.process.stdin.write(json.dumps(argument).encode())
            self.process.stdin.close()
        self.process.stdin = None

    def __enter__(self) -> "Subprocess":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:  # Windows
                self.process.kill()
        self.process.wait()
        self.stderr.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def answer(self) -> Answer:
        """Wait until the function returns or the time limit is reached, and return the answer."""
        try:
            out, _ = self.process.communicate(timeout=max(0.1, self.until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Answer({}, f"no answer within {self.limit_s:g} s")
        try:
            return Answer(**json.loads(out))
        except (ValueError, TypeError):
            return Answer({}, self._describe_end())

    def _describe_end(self) -> str:
        status = self.process.returncode
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        message = f": {lines[-1].strip()[:200]}" if lines else ""
        if status < 0:
            hint = " (out of memory?)" if -status == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-status).name}{hint}{message}"
        return f"ended with exit status {status}{message}"


def main(name: str) -> None:
    """Call the function with the argument on stdin, and write the answer to stdout; all other output goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    module, _, function = name.partition(":")
    try:
        answer = Answer(getattr(importlib.import_module(module), function)(json.load(sys.stdin)))
    except UserError as error:
        answer = Answer({}, str(error))
    except Exception as error:
        answer = Answer({}, f"{type(error).__name__}: {first_line(error)}")
    os.write(out, json.dumps(answer._asdict()).encode())
    sys.stderr.flush()
    os._exit(0)  # some libraries hang or crash at the end of the interpreter


if __name__ == "__main__":
    main(sys.argv[1])

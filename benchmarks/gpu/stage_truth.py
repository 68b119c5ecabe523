"""Run the tests of tests/gpu one after the other, and keep the outcome and the recorded numbers of each."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from context import Context

TESTS = Path(__file__).resolve().parents[2] / "tests" / "gpu"
FILES = ("test_numbers.py", "test_training.py", "test_device.py", "test_engines.py")  # in order of value
TINY = "ranking or masks or (resume and not loader) or graphs or shortage"  # a few, for a CPU
MOST_S = 45.0  # limit of one test


class Recorder:
    """Add each test to the results as soon as it ends, and stop a test that takes too long."""

    def __init__(self, context: Context) -> None:
        self.context, self.tests = context, list[dict[str, Any]]()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.context.put(planned=[item.name for item in session.items], tests=self.tests)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, MOST_S)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        test = {"name": report.nodeid.split("::")[-1], "outcome": report.outcome, "seconds": round(report.duration, 3)}
        reason = ""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else str(report.longrepr)
        self.tests.append({**test, "numbers": dict(report.user_properties), "reason": " ".join(reason.split())[:400]})
        self.context.put(tests=self.tests)


def _too_long(number: int, frame: Any) -> NoReturn:
    raise TimeoutError(f"the test took longer than {MOST_S:.0f} s")


def main(context: Context) -> str | None:
    if context.device.type == "cpu":
        os.environ["HPM_GPU_TESTS_ON_CPU"] = "1"
    words = [*(str(TESTS / name) for name in FILES), f"--rootdir={TESTS.parents[1]}", "-m", "gpu", "-v"]
    words += ["--import-mode=importlib", "-p", "no:cacheprovider"]
    words += ["-o", "addopts="]  # without the type hook, which would slow compiled code
    words += ["-k", TINY] if context.tiny else []
    recorder = Recorder(context)
    code = pytest.main(words, plugins=[recorder])
    outcomes = [test["outcome"] for test in recorder.tests]
    context.put(counts={outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")})
    failed = [test["name"] for test in recorder.tests if test["outcome"] == "failed"]
    if failed:
        return f"{len(failed)} of {len(outcomes)} tests failed: {', '.join(failed)}"
    return None if code == 0 and outcomes else f"pytest ended with {code!r}"

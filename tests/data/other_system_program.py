"""Hide from the program what macOS or Windows lack, then run a command; for `test_worker_processes.py`.

Spawned workers import this file too, so it is hidden from them as well.
"""

import builtins
import multiprocessing
import os
import signal
import sys
import time

HIDDEN_MODULES = ("resource", "fcntl", "deepspeed", "decord", "torchcodec")
HIDDEN_NAMES = {
    os: ["fork", "killpg", "sysconf", "sched_getaffinity"],
    signal: ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBUS"],
}
NOT_ON_WINDOWS = ("%F", "%T", "%s", "%e", "%P")
real_import, real_strftime = builtins.__import__, time.strftime


def import_or_hide(name, scope=None, *rest, **more):
    """Hide a module from this program. Other libraries look at the real system."""
    if name in HIDDEN_MODULES and scope and str(scope.get("__name__", "")).startswith("hpm_video"):
        raise ImportError(f"No module named '{name}'")
    return real_import(name, scope, *rest, **more)


def strftime(form, *when):
    """Fail for what only Unix knows."""
    assert not any(code in form for code in NOT_ON_WINDOWS), form
    return real_strftime(form, *when)


def hide() -> None:
    """Hide it all."""
    import pebble  # noqa: F401  the libraries first
    import psutil  # noqa: F401
    import torch.multiprocessing  # noqa: F401

    builtins.__import__, time.strftime = import_or_hide, strftime
    for module, names in HIDDEN_NAMES.items():
        for name in names:
            delattr(module, name)
    multiprocessing.get_all_start_methods = lambda: ["spawn"]


hide()
if __name__ == "__main__":
    from hpm_video.cli import main

    sys.exit(main(sys.argv[1:]))

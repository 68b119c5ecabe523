"""Train for `storm.py`; with HPM_STORM_MOMENT (save:N, rewrite:N) the process kills itself in the middle of a write."""

import os
import signal
import sys

from hpm_video import files
from hpm_video.cli import script_main


def kill_at_write(what: str, number: int) -> None:
    """Send SIGKILL to this process at the `number`-th sync of a draft of a checkpoint (save) or of another file (rewrite)."""
    real, count = files.sync, 0

    def sync(path) -> None:  # noqa: ANN001
        nonlocal count
        in_save = ".draft-step-" in str(path)
        count += in_save == (what == "save")
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path)

    files.sync = sync
    import hpm_video.runs.checkpoints as checkpoint

    checkpoint.sync = sync


if __name__ == "__main__":
    what, _, number = os.environ.get("HPM_STORM_MOMENT", "").partition(":")
    if number and os.environ.get("RANK", "0") == "0":
        kill_at_write(what, int(number))
    sys.exit(script_main("pretrain"))

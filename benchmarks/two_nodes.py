"""Make two nodes on this machine: network namespaces with a cable between them. For bench_engines.py and tests/distributed."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

ADDRESSES = ("10.77.0.1", "10.77.0.2")


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, str] | None]:
    """Yield the names of two namespaces, each with its address on eth0; None without the right to make them.

    At the end their processes are killed and they are deleted. It needs root and the command `ip` (Linux).
    """
    one, other = names = (f"hpm{os.getpid() % 10_000}a", f"hpm{os.getpid() % 10_000}b")
    allowed = os.geteuid() == 0 and shutil.which("ip") is not None
    if not allowed or subprocess.run(["ip", "netns", "add", one], check=False, capture_output=True).returncode:
        yield None
        return
    try:
        _run_ip(f"netns add {other}")
        _run_ip(f"link add eth0 netns {one} type veth peer name eth0 netns {other}")
        for name, address in zip(names, ADDRESSES, strict=True):
            for command in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
                _run_ip(f"-n {name} {command}")
        yield names
    finally:
        for name in names:
            for pid in _run_ip(f"netns pids {name}", check=False).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run_ip(f"netns delete {name}", check=False)


def _run_ip(words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words.split()], check=check, stdout=subprocess.PIPE, text=True).stdout

"""Several processes: how they find each other, and what the engines that need them have in common."""

import datetime
import socket
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hpm_video.config import RunConfig
from hpm_video.errors import UserError
from hpm_video.runs.launchers import LOOPBACK, find_launch, started_by_launcher
from hpm_video.train.engines.plain import PlainEngine


class ProcessesEngine(PlainEngine):
    """One of several processes. A subclass wraps the module and reduces gradients."""

    gradients_can_stay = False

    def __init__(self, student: nn.Module, config: RunConfig, device: torch.device) -> None:
        # beside NCCL's: what the hosts tell each other does not stand in the queue of the GPUs
        self.host_group: Any = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        super().__init__(student, config, device, dist.get_rank(), dist.get_world_size())

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Return the sums of numbers that the hosts know; no device is waited for, but the ranks wait for each other."""
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, group=self.host_group)
        return values.tolist()


def check_start(kind: str) -> None:
    """Raise UserError if no launcher gave this process a place among others."""
    if not started_by_launcher():
        raise UserError(
            f"engine.kind: {kind}, but not started by a launcher; expected: torchrun --nproc-per-node 2 -m hpm_video pretrain ..."
        )


def make_group(device: torch.device, limit_s: float) -> None:
    """Make the process group, unless there is one. Raises UserError if the processes do not find each other in time."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with explained(limit_s):
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=limit_s))
        dist.barrier()


class explained:  # noqa: N801
    """A context that turns a failed meeting of the processes into one sentence with the likely cause."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, RuntimeError | ValueError):
            return
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"the processes did not find each other within {self.limit_s:g} s ({reason}); {explain_address()}another rank may "
            "say why"
        ) from error


def explain_address() -> str:
    """Return what is wrong with this host's name, if it leads to itself alone; else ''."""
    found = find_launch()
    if found is None or found.local_world_size == found.world_size:
        return ""
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = "no address"
    if not own.startswith("127.") and own != "no address":
        return f"expected that port {found.port} of {found.address} can be reached from {own}; "
    return (
        f"the name of this host ({socket.gethostname()}) leads to {own} ({LOOPBACK} reaches no other node): set "
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network interface of the cluster, or mend /etc/hosts; "
    )

"""Several processes: form their group, and the base of the engines that use it."""

import contextlib
import datetime
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from hpm_video.config import RunConfig
from hpm_video.errors import UserError
from hpm_video.runs.launchers import find_launch, started_by_launcher
from hpm_video.train.engines.plain import PlainEngine
from hpm_video.train.engines.protocol import Part

log = logging.getLogger("hpm_video")
MEET_S = 300.0  # all processes must have started within this time
SIOCGIFADDR = 0x8915  # Linux: the address of an interface


class ProcessesEngine(PlainEngine):
    """One of several processes. A subclass wraps the module and reduces gradients."""

    gradients_can_stay = False

    def __init__(self, student: nn.Module, config: RunConfig, device: torch.device) -> None:
        # in addition to NCCL's group: messages between hosts do not wait in the queues of the GPUs
        self.host_group: Any = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        # for the thread that saves: its messages must not mix with those of the steps
        self.save_group: Any = dist.new_group(backend="gloo") if self.sharded else None
        super().__init__(student, config, device, dist.get_rank(), dist.get_world_size())

    def sum_over_ranks(self, *numbers: float) -> list[float]:
        """Return the sums over the ranks of numbers in host memory. Ranks wait for each other, but not for a device."""
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, group=self.host_group)
        return values.tolist()

    def collect(self, copies: Sequence[Part], room: Callable[[str, tuple[int, ...]], Tensor]) -> None:
        """Send this rank's copies to rank 0, one tensor at a time, so that no rank needs more memory."""
        heads = [(part.key, part.shape, part.start, part.values.numel()) for part in copies]
        found: list[Any] = [None] * self.world_size
        dist.gather_object(heads, found if self.rank == 0 else None, dst=0, group=self.save_group)
        if self.rank:
            for part in copies:
                dist.send(part.values.view(-1), 0, group=self.save_group)
            return
        for source in range(1, self.world_size):
            for key, shape, start, count in found[source]:
                dist.recv(room(key, shape).view(-1)[start : start + count], source, group=self.save_group)


def check_start(kind: str) -> None:
    """Raise UserError if no launcher gave this process a rank."""
    if not started_by_launcher():
        raise UserError(
            f"engine.kind: {kind}, but not started by a launcher; expected: torchrun --nproc-per-node 2 -m hpm_video pretrain ..."
        )


def make_group(device: torch.device, limit_s: float) -> None:
    """Create the process group, unless it exists. Raises UserError if the processes do not find each other in time."""
    if dist.is_initialized():
        return
    choose_interface()
    backend = "nccl" if device.type == "cuda" else "gloo"
    with explained(meet_s := min(limit_s, MEET_S)):
        store, rank, size = next(rendezvous("env://", timeout=datetime.timedelta(seconds=meet_s)))
        limit = datetime.timedelta(seconds=limit_s)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)


@contextlib.contextmanager
def explained(limit_s: float) -> Iterator[None]:
    """Turn a failure to form the group into a UserError with the likely cause."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"the processes did not find each other within {limit_s:g} s ({reason}); {explain_address()}another rank may say why"
        ) from error


def explain_address() -> str:
    """Return a hint about the network that several nodes need; '' on one node."""
    found = find_launch()
    if found is None or found.local_world_size == found.world_size:
        return ""
    return (
        f"expected that port {found.port} of {found.address} can be reached from {socket.gethostname()} "
        f"({own_address() or 'its name has no address'}). Try GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME with the network "
        "interface of the cluster; "
    )


def choose_interface() -> None:
    """Set GLOO_SOCKET_IFNAME if the address of this host's own name is not that of a network interface (127.0.1.1 in
    /etc/hosts): other nodes cannot reach it."""
    found = find_launch()
    if found is None or found.local_world_size == found.world_size or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    interfaces = list_interfaces()
    if own_address() in interfaces.values():
        return
    named = interface_towards(found.address, found.port, interfaces)
    if named is not None:
        log.info("%s is reached through the interface %s (GLOO_SOCKET_IFNAME)", found.address, named)
        os.environ["GLOO_SOCKET_IFNAME"] = named


def own_address() -> str | None:
    """Return the address of this host's name; None if it has none."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def list_interfaces() -> dict[str, str]:
    """Return the IPv4 address of each network interface except loopback, by name; {} if the system cannot list them."""
    try:
        import fcntl
    except ImportError:
        return {}
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # without an address
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found[name] = socket.inet_ntoa(answer[20:24])
    return {name: address for name, address in found.items() if not address.startswith("127.")}


def interface_towards(address: str, port: int, interfaces: Mapping[str, str]) -> str | None:
    """Return the interface through which an address is reached; if the address is this host's, its only interface. None if
    unknown."""
    own = ""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # a datagram socket: nothing is sent
        own = probe.getsockname()[0]
    towards = next((name for name, other in interfaces.items() if other == own), None)
    return next(iter(interfaces)) if towards is None and len(interfaces) == 1 else towards

"""How processes of several nodes find each other."""

import pytest

from hpm_video.errors import UserError
from hpm_video.train.engines import processes
from hpm_video.train.engines.processes import choose_interface, explained, interface_towards


@pytest.fixture
def two_nodes(monkeypatch):
    """This process as the second of two nodes."""
    for name, value in {
        **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")


@pytest.mark.parametrize(
    ("own", "interfaces", "chosen"),
    [
        ("10.0.0.2", {"ib0": "10.0.0.2", "eth1": "192.168.0.2"}, None),  # the name of the host is right
        ("127.0.1.1", {"ib0": "10.0.0.2"}, "ib0"),
        ("127.0.1.1", {"ib0": "127.0.0.1", "eth1": "192.168.0.2"}, "ib0"),  # from which 127.0.0.1 is reached
        ("127.0.1.1", {"ib0": "10.0.0.2", "eth1": "192.168.0.2"}, None),
        (None, {}, None),
    ],
)
def test_a_host_whose_name_leads_nowhere_chooses_its_interface(two_nodes, monkeypatch, own, interfaces, chosen) -> None:
    import os

    monkeypatch.setattr(processes, "own_address", lambda: own)
    monkeypatch.setattr(processes, "list_interfaces", lambda: interfaces)
    choose_interface()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == chosen


def test_one_node_needs_no_interface(two_nodes, monkeypatch) -> None:
    import os

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "own_address", lambda: "127.0.1.1")
    choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_name_that_cannot_be_resolved_leaves_the_choice_open() -> None:
    assert interface_towards("no.such.host.invalid", 1, {"a": "10.0.0.1", "b": "10.0.0.2"}) is None


def test_processes_that_do_not_meet_are_one_sentence(two_nodes) -> None:
    with pytest.raises(
        UserError, match="did not find each other within 5 s.*port 29500 of 127.0.0.1.*GLOO_SOCKET_IFNAME"
    ):
        with explained(5):
            raise RuntimeError("Connection refused\nmore lines")

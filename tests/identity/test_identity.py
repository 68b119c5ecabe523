"""What the library computes is what it computed when tests/identity/recorded.json was recorded (see record.py)."""

import pytest
from entries import ENTRIES, compute, is_quick, tolerance
from machine import describe_machine
from record import read

RECORDED = read()
NAMES = [name if is_quick(name) else pytest.param(name, marks=pytest.mark.slow) for name in ENTRIES]


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    return describe_machine()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_recorded(name, here) -> None:
    entry = RECORDED["entries"][name]
    same_machine = RECORDED["machines"][entry["machine"]] == here
    found = compute(name)
    floats = {key: found["floats"][key] for key in entry.get("floats", {})}  # what is logged beside them is new
    assert found.get("exact", {}) == entry.get("exact", {})
    if same_machine:
        assert floats == entry.get("floats", {})
        assert found.get("bits", {}) == entry.get("bits", {})
        return
    for key, values in entry.get("floats", {}).items():
        near = tolerance(name, key)
        assert numbers(floats[key]) == pytest.approx(numbers(values), rel=near, abs=near), key


def numbers(values: str) -> list[float]:
    return [float.fromhex(value) for value in values.split()]


def test_every_recorded_entry_is_compared() -> None:
    assert RECORDED["entries"].keys() == ENTRIES.keys()

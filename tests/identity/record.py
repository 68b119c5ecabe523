"""Record what the library computes today: python tests/identity/record.py [NAME ...]

A name is one of recorded.json, or the beginning of some ("pretrain/", "masks/hpm"). Without names everything is recorded.
Record a name only if its numbers were meant to move; say why in CHANGELOG.md. `--list` lists the names.

Each entry keeps the numerics of the machine that recorded it (tests/identity/machine.py). On another machine floats are
compared within a tolerance only. To compare bit for bit there: check out the commit before your change, record everything,
and go back to your change with that recorded.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "recorded.json"
Recorded = dict[str, Any]


def read() -> Recorded:
    """Return {"machines": {key: numerics}, "entries": {name: {"machine": key, "exact": ..., "floats": ..., "bits": ...}}}."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {"machines": {}, "entries": {}}


def write(recorded: Recorded) -> None:
    used = {entry["machine"] for entry in recorded["entries"].values()}
    machines = {key: value for key, value in recorded["machines"].items() if key in used}
    entries = {name: recorded["entries"][name] for name in sorted(recorded["entries"])}
    FILE.write_text(json.dumps({"machines": machines, "entries": entries}, indent=1) + "\n")


def main(names: list[str]) -> int:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from entries import ENTRIES, compute
    from machine import describe_machine

    if names == ["--list"]:
        sys.stdout.write("\n".join(ENTRIES) + "\n")
        return 0
    chosen = [name for name in ENTRIES if not names or name.startswith(tuple(names))]
    if not chosen:
        sys.stderr.write(f"{names}: no entry has such a name; expected some of those that --list lists\n")
        return 1
    recorded, machine = read(), describe_machine()
    recorded["machines"][machine["probe"]] = machine
    if not names:
        recorded["entries"] = {}
    for name in chosen:
        recorded["entries"][name] = {"machine": machine["probe"], **compute(name)}
        sys.stderr.write(f"recorded {name}\n")
    write(recorded)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Gates on the tree: layers, sizes of rooms and files, a test file for each module, docstrings."""

import ast
import fnmatch
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "hpm_video"
FILES = sorted(LIBRARY.rglob("*.py"))
MOST_LINES, MOST_SHARE = 300, 0.19
WRONG_BEGINNINGS = re.compile(r"(Of|What|That|How|Whether|The way)\b")
LAYERS = (
    *(
        "cli",
        "commands",
        "api",
        "report",
        "profiling",
        "evals",
        "train",
        "costs",
        "weights",
        "method",
        "preprocess | runs | interop",
    ),
    *("models | data", "catalog", "config"),
)


def name_of(file: Path) -> str:
    return file.relative_to(LIBRARY).as_posix()


def test_imports_go_one_way() -> None:
    """The contract that lint-imports checks has the rooms of the library in this order, and all of them."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [layer.replace("hpm_video.", "") for layer in contract["layers"]]
    assert contract["type"] == "layers" and layers[: len(LAYERS)] == list(LAYERS)
    listed = {name for layer in layers for name in layer.split(" | ")}
    rooms = {file.relative_to(LIBRARY).parts[0].removesuffix(".py") for file in FILES}
    assert listed == rooms - {"__init__", "__main__"}


def test_no_room_is_crowded() -> None:
    lines: Counter[str] = Counter()
    for file in FILES:
        lines[file.relative_to(LIBRARY).parts[0]] += len(file.read_text().splitlines())
    crowded = {
        room: f"{count / lines.total():.1%}" for room, count in lines.items() if count > MOST_SHARE * lines.total()
    }
    assert not crowded


def test_no_file_is_long() -> None:
    assert not {name_of(file) for file in FILES if len(file.read_text().splitlines()) > MOST_LINES}


def test_every_module_has_a_test_file_or_a_reason() -> None:
    """tests/README.md lists the modules that are tested in a file of another name, and why."""
    rows = re.findall(
        r"^\| `(\S+\.py|\S+\*)` \| (`.+`) \| (.+) \|$", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE
    )
    elsewhere = {module: re.findall(r"`(\S+)`", where) for module, where, _ in rows}
    lacking = {
        name_of(file)
        for file in FILES
        if file.name not in ("__init__.py", "__main__.py")
        and not (ROOT / "tests" / file.relative_to(LIBRARY).with_name(f"test_{file.name}")).is_file()
    }
    known = {name: [row for row in elsewhere if fnmatch.fnmatchcase(name, row)] for name in lacking}
    assert not [name for name, found in known.items() if not found], "neither a test file nor a row in tests/README.md"
    assert elsewhere.keys() == {row for found in known.values() for row in found}, (
        "rows for modules that are gone or tested"
    )
    assert all(reason.strip() for *_, reason in rows) and all(elsewhere.values())
    assert not {test for tests in elsewhere.values() for test in tests if not (ROOT / "tests" / test).is_file()}


def test_docstrings_are_there_and_begin_with_a_verb() -> None:
    assert {name_of(file): faults for file in FILES if (faults := list(docstring_faults(file)))} == {}


def docstring_faults(file: Path) -> Iterator[str]:
    """Yield the public definitions without a docstring, and the docstrings that begin with a wrong word.

    Needless: dunder methods, and methods that override those of a base class.
    """
    tree = ast.parse(file.read_text())
    for node, owner in definitions(tree):
        text = ast.get_docstring(node)
        if text is not None and (found := WRONG_BEGINNINGS.match(text)):
            yield f"{getattr(node, 'name', 'module')}: {found[1]}"
        if text is None and is_public(node, owner):
            yield f"{getattr(node, 'name', 'module')}: none"


def definitions(node: ast.AST, owner: ast.ClassDef | None = None) -> Iterator[tuple[ast.AST, ast.ClassDef | None]]:
    """Yield the module, its classes, and its functions and methods, but not functions in functions."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield node, owner
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from definitions(child, node if isinstance(node, ast.ClassDef) else None)


def is_public(node: ast.AST, owner: ast.ClassDef | None) -> bool:
    if isinstance(node, ast.Module):
        return True
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    hidden = node.name.startswith("_") or (owner is not None and owner.name.startswith("_"))
    bases = {ast.unparse(base).split("[")[0] for base in owner.bases} if owner is not None else set()
    return not hidden and not bases - {"NamedTuple", "Protocol", "Generic"}


def test_the_check_of_docstrings_sees_faults(tmp_path) -> None:
    file = tmp_path / "one.py"
    file.write_text(
        '"""Of a module."""\n\n\ndef one():\n    """How it goes."""\n\n\ndef two():\n    pass\n\n\nclass A(B):\n    """Hold."""\n\n'
        '    def three(self):\n        pass\n\n\nclass C:\n    """That is."""\n\n    def four(self):\n        pass\n\n    def _five(self):\n'
        '        """Whether."""\n'
    )
    assert list(docstring_faults(file)) == [
        *("module: Of", "one: How", "two: none", "C: That", "four: none", "_five: Whether")
    ]

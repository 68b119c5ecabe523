"""Files are created, replaced and deleted in hpm_video/files.py and own_folder.py, and nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
METHODS = {
    "write_text",
    "write_bytes",
    "unlink",
    "rmdir",
    "rename",
    "rmtree",
    "copyfile",
    "copytree",
    "move",
    "truncate",
}
INTO_A_DRAFT = {"save_file", "savez", "savefig", "write_table"}  # libraries that take a path or a stream
ALLOWED = {  # file: what it may call, and why
    "hpm_video/data/row_cache.py": {"unlink"},  # entries of its own that nothing has opened for long
    "hpm_video/files.py": METHODS | {"open", "replace"},
    "hpm_video/preprocess/jobs.py": {
        "open",
        "truncate",
    },  # appends a line for each file, in a folder that the caller holds
    "hpm_video/own_folder.py": METHODS | {"replace"},
    "hpm_video/evals/finetuned/answers.py": {"open"},  # appends a line for each video, in a folder that it holds
    "hpm_video/preprocess/transcode.py": {"copyfile"},  # into a draft
    "hpm_video/preprocess/video_tables.py": {"write_bytes"},  # into a draft
    "hpm_video/runs/checkpoints.py": METHODS | {"open", "replace", "save_file"},  # the folder of a step, then renamed
    "hpm_video/train/metrics.py": {"open"},  # appends a line for each measurement
    "hpm_video/weights/load.py": {"copyfile"},  # into a draft
    "scripts/storm.py": {"open"},  # appends to the logs of its own runs
    "datasets/fashion_mnist/prepare.py": {"rename"},  # a draft of a whole folder, to a name that is free
    "benchmarks/gpu/run.py": {"open"},  # appends to the log in its own folder
    # temporary folders of their own
    "benchmarks/bench_loader.py": {"copyfile"},
    "benchmarks/bench_engines.py": {"write_text"},
}


def writes(file: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of each call that creates, replaces or deletes a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    drafts = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and any(
            isinstance(i.context_expr, ast.Call) and _name(i.context_expr) in ("replacing", "draft") for i in node.items
        )
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, in_draft = _name(node), any(node.lineno in lines for lines in drafts)
        if isinstance(node.func, ast.Attribute) and name in METHODS:
            yield node.lineno, name
        elif name == "replace" and isinstance(node.func, ast.Attribute) and _is(node.func.value, "os"):
            yield node.lineno, name
        elif name in INTO_A_DRAFT and not in_draft and not _goes_to_memory(node):
            yield node.lineno, name
        elif (
            name == "open"
            and not in_draft
            and any(isinstance(a, ast.Constant) and str(a.value)[:1] in "wax" for a in _mode(node))
        ):
            yield node.lineno, name


def _name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _mode(node: ast.Call) -> list[ast.expr]:
    """What may be the mode of a call of open; PyAV's and tarfile's own are of containers."""
    if (
        isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("av", "tarfile")
    ):
        return []
    given = node.args[1:2] if isinstance(node.func, ast.Name) else node.args[:2]
    return [*given, *(k.value for k in node.keywords if k.arg == "mode")]


def _goes_to_memory(node: ast.Call) -> bool:
    return bool(node.args) and _is(node.args[0], "buffer")


def test_only_files_py_creates_replaces_and_deletes() -> None:
    found = []
    for folder in ("hpm_video", "scripts", "benchmarks", "datasets"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            found += [f"{name}:{line}: {call}" for line, call in writes(file) if call not in ALLOWED.get(name, set())]
    assert not found, "\n".join(found)


def test_this_test_sees_what_it_looks_for(tmp_path) -> None:
    code = "import os\nos.replace(a, b)\nopen(a, 'w')\nfile.open('a')\nfile.write_text(b)\nsave_file(t, a)\nopen(a)\n"
    code += "with replacing(a) as draft:\n    save_file(t, draft)\nwrite_text(a, b)\n'a'.replace('w', 'x')\nfigure.savefig(buffer)\n"
    (tmp_path / "a.py").write_text(code)
    assert [line for line, _ in writes(tmp_path / "a.py")] == [2, 3, 4, 5, 6]

"""The commands: one row here and one file beside it for each, with its arguments and what it runs."""

import importlib
from types import ModuleType

GROUPS = {  # group -> name -> what --help says; the module of that name has `add_arguments(parser)` and `run(given)`
    "data": {
        "scan": "find the videos of a folder that cannot be read, and why",
        "data": "write a manifest of a known data set, from its own annotations",
        "prepare": "make a training copy: small videos that are fast to read",
        "pack": "copy a data set into tar shards, for disks that like few files",
    },
    "train": {
        "doctor": "what works on this machine, and what a configuration costs on it",
        "pretrain": "train an encoder on videos without labels",
        "finetune": "train a pretrained encoder on labels, then test it",
        "sweep": "pretrain once for each combination of values, then score and compare",
        "schema": "JSON schema of the configuration, for editors",
    },
    "evaluate": {
        "show": "pictures of a run: masks, reconstructions, difficulty, curves; an animation",
        "score": "kNN and linear probe of the frozen encoder of a run, on a labelled set",
        "knn": "kNN accuracy of the frozen encoder of a run",
        "probe": "linear or attentive probe of the frozen encoder of a run",
        "test": "test a fine-tuned run: several views of each video of a labelled split, on any number of processes",
        "report": "compare finished runs: tables, curves, scores against compute",
    },
    "use": {
        "features": "features of any videos, in one file",
        "predict": "classify videos with a fine-tuned run; over time if they are long",
        "export": "write the weights of the latest checkpoint of a run: for this program, or checked for another",
        "completion": "print what makes a shell complete commands, options and keys",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def describe_commands() -> str:
    """Return the list of --help: the groups with their commands, each with its line."""
    width, grouped = max(map(len, COMMANDS)), {name for rows in GROUPS.values() for name in rows}
    others = {name: text for name, text in COMMANDS.items() if name not in grouped}  # a program's own
    lines = []
    for title, rows in {**GROUPS, "other": others}.items():
        lines += [f"\n{title}:", *(f"  {name:<{width}}  {text}" for name, text in rows.items())] if rows else []
    return "\n".join(lines).lstrip("\n")


def find_command(name: str) -> ModuleType:
    """Import the module of one command; the others are not imported."""
    return importlib.import_module(f"hpm_video.commands.{name}")

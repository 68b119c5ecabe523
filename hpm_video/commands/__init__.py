"""The commands of `hpm-video`: each is one row here and one module of that name, with its arguments and its work."""

import importlib
from types import ModuleType

GROUPS = {  # group -> name -> line of --help; the module of that name has `add_arguments(parser)` and `run(given)`
    "data": {
        "scan": "list the videos of a folder that cannot be read, each with the reason",
        "data": "write the manifest of a known data set from its annotation files",
        "prepare": "copy videos for training: small, and fast to read",
        "pack": "pack a data set into tar shards, for disks that are slow with many files",
    },
    "train": {
        "doctor": "check this machine, and estimate what a configuration costs on it",
        "pretrain": "train an encoder on videos without labels",
        "finetune": "train a pretrained encoder on labelled videos, then test it",
        "sweep": "pretrain once for each combination of values, then score and compare the runs",
        "schema": "print the JSON schema of the configuration, for editors",
    },
    "evaluate": {
        "show": "draw a run: masks, reconstructions, difficulty and curves, or an animation",
        "score": "score the frozen encoder of a run on labelled videos, by kNN and a linear probe",
        "knn": "score the frozen encoder of a run by kNN alone",
        "probe": "score the frozen encoder of a run by a linear, an MLP or an attentive probe",
        "test": "test a fine-tuned run on several views of each labelled video, in one process or many",
        "report": "compare finished runs: tables, curves, scores against compute",
    },
    "use": {
        "features": "write the features of any videos to one file",
        "predict": "classify videos with a fine-tuned run, long ones window by window",
        "export": "export the latest weights of a run for this program or, checked, for another library",
        "completion": "print the script with which a shell completes commands, options and keys",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def describe_commands() -> str:
    """Return the list of --help: each group with its commands, one line each."""
    width, grouped = max(map(len, COMMANDS)), {name for rows in GROUPS.values() for name in rows}
    others = {name: text for name, text in COMMANDS.items() if name not in grouped}  # added by another program
    lines = []
    for title, rows in {**GROUPS, "other": others}.items():
        lines += [f"\n{title}:", *(f"  {name:<{width}}  {text}" for name, text in rows.items())] if rows else []
    return "\n".join(lines).lstrip("\n")


def find_command(name: str) -> ModuleType:
    """Import the module of this command alone."""
    return importlib.import_module(f"hpm_video.commands.{name}")

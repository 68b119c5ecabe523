"""The commands: one row here and one file beside it for each, with its arguments and what it runs."""

import importlib
from types import ModuleType

COMMANDS = {  # name -> what --help says about it; the module of that name has `add_arguments(parser)` and `run(given)`
    "pretrain": "train an encoder on videos without labels",
    "finetune": "train a pretrained encoder on labels, then test it",
    "test": "test a fine-tuned run: several views of each video of a labelled split, on any number of processes",
    "predict": "classify videos with a fine-tuned run; over time if they are long",
    "score": "kNN and linear probe of the frozen encoder of a run, on a labelled set",
    "knn": "kNN accuracy of the frozen encoder of a run",
    "probe": "linear or attentive probe of the frozen encoder of a run",
    "features": "features of any videos, in one file",
    "show": "pictures of a run: masks, reconstructions, difficulty, curves",
    "export": "write the weights of the latest checkpoint of a run: for this program, or checked for another",
    "doctor": "what works on this machine, and what a configuration costs on it",
    "report": "compare finished runs: tables, curves, scores against compute",
    "scan": "find the videos of a folder that cannot be read, and why",
    "prepare": "make a training copy: small videos that are fast to read",
    "pack": "copy a data set into tar shards, for disks that like few files",
}


def find_command(name: str) -> ModuleType:
    """Import the module of one command; the others are not imported."""
    return importlib.import_module(f"hpm_video.commands.{name}")

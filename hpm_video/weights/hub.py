"""The Hugging Face hub: download hf://ORG/NAME into the cache of huggingface_hub, and upload exported folders."""

import re
from pathlib import Path

from hpm_video.errors import UserError, import_for
from hpm_video.reading import brief, one_line

LIBRARY = "huggingface_hub"
PREFIX = "hf://"
NAME = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
SAFE, PICKLED = ["*.safetensors", "*.json", "*.yaml"], ["*.bin", "*.pth"]  # pickles only if there are no safetensors


def is_on_hub(source: str) -> bool:
    """Return whether a source is on the hub: hf://..."""
    return source.startswith(PREFIX)


def fetch_model(source: str) -> Path:
    """Download the weights and settings of hf://ORG/NAME or hf://ORG/NAME@REVISION, unless they are in the cache, and return their
    folder. Raises UserError if the name is malformed or the model cannot be downloaded."""
    found = NAME.fullmatch(source)
    if found is None:
        raise UserError(f"{brief(source)}: not a name of the hub; expected hf://ORG/NAME or hf://ORG/NAME@REVISION")
    snapshot_download = import_for(source, LIBRARY).snapshot_download
    name, revision = found.groups()
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=SAFE))
        if not any(folder.glob("**/*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*SAFE, *PICKLED]))
    except Exception as error:  # no network, no such model, no permission: each has a type of its own
        raise UserError(
            f"{source}: cannot be fetched ({one_line(error)[:300]}); expected a model that you may read. Try: hf auth login, "
            "or the path of a copy on this machine"
        ) from error
    return folder


def push_folder(folder: Path, name: str) -> str:
    """Upload an exported folder to ORG/NAME on the hub, as a new commit, and return its address. A new model is private. Raises
    UserError if the name is malformed or the upload fails."""
    found = NAME.fullmatch(f"{PREFIX}{name}")
    if found is None or found[2]:
        raise UserError(f"--push: {brief(name)}; expected ORG/NAME")
    api = import_for("--push", LIBRARY).HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="hpm-video export"))
    except Exception as error:
        raise UserError(
            f"--push: {name}: the upload failed ({one_line(error)[:300]}); {folder} is written. Try: hf auth login, or a name of "
            "your own account"
        ) from error

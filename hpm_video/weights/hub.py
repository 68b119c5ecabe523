"""Models of the Hugging Face hub: hf://ORG/NAME, fetched with huggingface_hub into its cache."""

import re
from pathlib import Path

from hpm_video.errors import UserError
from hpm_video.reading import brief, one_line

PREFIX = "hf://"
NAME = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
SAFE, PICKLED = ["*.safetensors", "*.json", "*.yaml"], ["*.bin", "*.pth"]  # the second only if the first has no weights


def is_on_hub(source: str) -> bool:
    """Return whether a source is of the hub: hf://..."""
    return source.startswith(PREFIX)


def fetch_model(source: str) -> Path:
    """Return the folder with the weights and settings of hf://ORG/NAME or hf://ORG/NAME@REVISION; what is in the cache is not
    fetched again. Raises UserError."""
    found = NAME.fullmatch(source)
    if found is None:
        raise UserError(f"{brief(source)}: not a name of the hub; expected hf://ORG/NAME or hf://ORG/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"{source}: huggingface_hub is not installed; expected it for hf:// names. Try: pip install huggingface_hub"
        ) from error
    name, revision = found.groups()
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=SAFE))
        if not any(folder.glob("**/*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*SAFE, *PICKLED]))
    except Exception as error:  # no network, no such model, no right to read it: each is a type of its own
        raise UserError(
            f"{source}: cannot be fetched ({one_line(error)[:300]}); expected a model that you may read. Try: hf auth login, "
            "or the path of a copy on this machine"
        ) from error
    return folder

"""Entry point for torch.hub: torch.hub.load(FOLDER_OR_REPOSITORY, "load", RUN, source="local") is `hpm_video.load(RUN)`."""

from typing import Any

dependencies = ["av", "einops", "jaxtyping", "numpy", "omegaconf", "pyarrow", "safetensors", "torch"]


def load(source: str, **options: Any) -> Any:
    """Load the encoder of a run, a weights file or a model of the Hugging Face hub; see `hpm_video.load`."""
    import hpm_video

    return hpm_video.load(source, **options)

"""Keep the JSON file of a stage of the GPU script, the time it has left, and the sizes of the small form."""

import json
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from hpm_video.files import write_json

# keys of the small form, for a CPU
SMALL = ["model.width=32", "model.depth=2", "model.num_heads=2", "model.decoder_width=16", "model.decoder_heads=2"]
SMALL += ["model.patch_px=8", "mask.ratio=0.75"]


class Skip(Exception):
    """Tell why a stage has nothing to do here."""


class Context:
    """Keep the results of a stage. The file is valid at any time and keeps every result if the process is killed."""

    def __init__(self, file: Path, device: str, tiny: bool, until: float) -> None:
        """Read `file`, which run.py wrote before the stage started. `until`: time.time() at which the stage is killed."""
        self.file, self.tiny, self.until, self.device_name = file, tiny, until, device
        self.started, self.content = time.time(), json.loads(file.read_text(encoding="utf-8"))

    @cached_property
    def device(self) -> Any:
        import torch

        return torch.device(self.device_name)

    @property
    def results(self) -> dict[str, Any]:
        return self.content["results"]

    def put(self, **results: Any) -> None:
        """Add results, or replace those of the same names, and write the file."""
        self.results.update(results)
        self._write()

    def end(self, status: str, reason: str = "") -> None:
        """Write how the stage ended."""
        self.content |= {"status": status, "reason": reason}
        self._write()

    def left(self) -> float:
        """Return the seconds until the stage is killed."""
        return self.until - time.time()

    def _write(self) -> None:
        self.content["seconds"] = round(time.time() - self.started, 2)
        write_json(self.file, self.content)

"""Limits on the memory that one file may take, even a small one: data.max_pixels, max_frames, max_sample_gib."""

import math
from typing import NamedTuple

from hpm_video.config import DataConfig
from hpm_video.errors import UnreadableVideo


class Limits(NamedTuple):
    """Refuse a file beyond a limit and name the key that sets it. No other reader tries such a file."""

    max_pixels: int = DataConfig.max_pixels
    max_frames: int = DataConfig.max_frames
    max_sample_gib: float = DataConfig.max_sample_gib

    @classmethod
    def of(cls, config: DataConfig) -> "Limits":
        """Return the limits of a configuration."""
        return cls(config.max_pixels, config.max_frames, config.max_sample_gib)

    def check_size(self, name: str, width: int, height: int) -> None:
        """Raise UnreadableVideo if one frame has too many pixels."""
        if width * height > self.max_pixels:
            self.refuse_pixels(name, f"frames of {width:,} x {height:,} px")

    def refuse_pixels(self, name: str, found: str) -> None:
        """Raise UnreadableVideo: `found` is more than max_pixels."""
        raise UnreadableVideo(name, f"{found}; expected at most {self.max_pixels:,} pixels (data.max_pixels)", True)

    def check_count(self, name: str, count: float, how: str = "") -> None:
        """Raise UnreadableVideo if a file has too many frames. `how`: the rate at which they were counted."""
        if not count <= self.max_frames:
            found = f"{count:,.0f}" if math.isfinite(count) else "countless"
            raise UnreadableVideo(
                name, f"{found} frames{how}; expected at most {self.max_frames:,} (data.max_frames)", True
            )

    def check_sample(self, name: str, count: int, width: int, height: int) -> None:
        """Raise UnreadableVideo if the decoded frames of a sample take too many bytes."""
        self.check_size(name, width, height)
        size_gib = count * width * height * 3 / 2**30
        if size_gib > self.max_sample_gib:
            raise UnreadableVideo(
                name,
                f"{count:,} frames of {width:,} x {height:,} px take {size_gib:.3g} GiB; expected at most "
                f"{self.max_sample_gib:g} GiB (data.max_sample_gib)",
                True,
            )


DEFAULT_LIMITS = Limits()

"""Count the samples that cannot be read."""

import logging
from collections.abc import Iterable

from hpm_video.errors import UserError
from hpm_video.types import Failure

log = logging.getLogger("hpm_video")
MIN_TRIED = 20  # samples; with fewer the share of unreadable ones does not stop a command


class BadSamples:
    """Log each unreadable sample once, count all of them, and stop beyond a share."""

    def __init__(self, max_share: float, outcome: str, known: Iterable[Failure] = ()) -> None:
        """Set the limit. max_share: data.max_bad_share. outcome: what happens to a bad sample, for the log. known: already
        logged."""
        self.max_share, self.outcome = max_share, outcome
        self.reasons = {failure.path: failure.reason for failure in known}
        self.num_bad = self.num_good = 0

    @property
    def names(self) -> list[str]:
        """Path and reason of each bad sample, in the order of discovery."""
        return [f"{path}: {reason}" for path, reason in self.reasons.items()]

    def add(self, failures: Iterable[Failure], num_good: int = 0) -> None:
        """Count samples, and log the bad ones that are new."""
        self.num_good += num_good
        for failure in failures:
            self.num_bad += 1
            if failure.path not in self.reasons:
                self.reasons[failure.path] = failure.reason
                log.warning("unreadable, %s: %s: %s", self.outcome, failure.path, failure.reason)

    def check(self, num_bad: int | None = None, num_good: int | None = None) -> None:
        """Raise UserError beyond the share. The counts are those of all ranks; None: those that were added here."""
        num_bad = self.num_bad if num_bad is None else num_bad
        num_tried = num_bad + (self.num_good if num_good is None else num_good)
        if num_tried >= MIN_TRIED and num_bad > self.max_share * num_tried:
            named = "; ".join(self.names[:3]) or "named by other ranks"
            raise UserError(
                f"{num_bad} of {num_tried} samples could not be read, more than data.max_bad_share {self.max_share} ({named}). "
                "hpm-video scan FOLDER finds all such files, and writes a manifest of the good ones"
            )

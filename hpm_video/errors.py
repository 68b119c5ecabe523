"""The two faults that this program raises on purpose. Imports nothing, so that messages and `--help` cost no time."""


class UserError(Exception):
    """Report a fault that the user can mend; the text says what is wrong, where, and what was expected. Shown without traceback."""


class UnreadableVideo(Exception):
    """Report a file that gives no frames; `reason` is in plain words. `hopeless`: no other reader needs to try."""

    def __init__(self, path: str, reason: str, hopeless: bool = False) -> None:
        super().__init__(path, reason)
        self.path, self.reason, self.hopeless = path, reason, hopeless

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"

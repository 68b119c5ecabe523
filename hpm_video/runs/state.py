"""State of a run: all that must survive a stop beside its tensors."""

import dataclasses


@dataclasses.dataclass(kw_only=True)
class RunState:
    """Everything but the tensors. Randomness needs no state: it is a function of seed, step and place in the batch, and
    so is the position of the loader."""

    step: int = 0  # optimizer steps done, left-out ones included
    num_updates: int = 0  # updates the optimizer really made
    seconds: float = 0.0  # of training, over all resumes
    num_skipped: int = 0  # steps or micro batches left out because something was not finite
    num_bad: int = 0  # samples that could not be read
    num_seen: int = 0  # samples requested

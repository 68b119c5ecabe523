"""State of a run: everything except tensors that a resumed run needs."""

import dataclasses


@dataclasses.dataclass(kw_only=True)
class RunState:
    """Counts of a run. Random numbers need no state: they are functions of seed, step and place in the batch. So is the
    position of the loader."""

    step: int = 0  # optimizer steps done, skipped ones included
    num_updates: int = 0  # updates that the optimizer made
    seconds: float = 0.0  # of training, over all resumes
    num_skipped: int = 0  # steps or micro batches skipped because something was not finite
    num_bad: int = 0  # samples that could not be read
    num_seen: int = 0  # samples requested

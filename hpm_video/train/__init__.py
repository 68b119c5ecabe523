"""Training: engines, optimizer, loop, metrics, and the two kinds of run. The loop does not depend on the method."""

"""THE MACHINE: engines, optimizer, loop, metrics, and the two kinds of run. The loop does not know the method."""

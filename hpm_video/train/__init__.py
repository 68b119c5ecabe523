"""THE MACHINE: engine, optimizer, schedules, loop, checkpoints, metrics. The loop does not know the method."""

"""The run folder: checkpoints, configuration, results.json, the lock of its writer; launchers, ranks and the machine."""

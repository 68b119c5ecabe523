"""The run folder: checkpoints, configuration, results.json, and whose it is."""

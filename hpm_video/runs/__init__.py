"""The run folder: checkpoints, configuration, results.json, and who may write it."""

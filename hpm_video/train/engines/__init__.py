"""The machine under the model: one file for each engine."""

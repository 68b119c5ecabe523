"""Weights in and out: files of this and other projects, put into a model, and exported from a run."""

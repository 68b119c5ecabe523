"""Scores of a fine-tuned run: multi-view tests and predictions."""

"""WEIGHTS -> SCORE: features and probes of frozen encoders, tests and predictions of fine-tuned models."""

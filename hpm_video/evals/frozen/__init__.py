"""Scores of a frozen encoder: features, nearest neighbours, probes."""

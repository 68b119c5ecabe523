"""Scan, transcode and pack a data set before training."""

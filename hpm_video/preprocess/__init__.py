"""FILES -> FILES: scan, transcode and pack a data set before training."""

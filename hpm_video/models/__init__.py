"""CLIP -> PREDICTIONS: tokens, encoder, student. Knows nothing of data sets and of the method."""

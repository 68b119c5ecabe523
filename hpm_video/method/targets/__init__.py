"""Targets: the values that are predicted of the hidden tokens, one file for each kind."""

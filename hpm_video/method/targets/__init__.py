"""Targets (objective.target): the values that the decoder predicts for hidden tokens, one file for each kind."""

"""Masking: random keys, patterns and strategies choose the masked units of each clip; `to_tokens` gives the tokens.

The road of a mask: `draw_keys` -> a pattern (mask.pattern) -> a strategy (mask.mode) -> `to_tokens`, which calls a decode choice
(mask.decode). Nothing here knows the modality or the model.
"""

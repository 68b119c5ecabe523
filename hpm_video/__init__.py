"""Hard Patches Mining for self-supervised video (and image) representation learning."""

__version__ = "0.1.0"

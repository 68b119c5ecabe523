"""Frames of a file: one module for each codec library, and only there."""

"""Costs of a configuration: multiply-adds, bytes and memory, counted without running it."""

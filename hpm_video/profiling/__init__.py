"""Measurements of this machine: environment, memory, throughput."""

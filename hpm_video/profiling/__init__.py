"""What this machine can do: environment, memory, throughput."""

"""What a configuration costs: multiply-adds, bytes and memory, counted without running it."""

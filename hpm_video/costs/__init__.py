"""Count what a configuration costs without running it: multiply-adds, bytes and memory."""

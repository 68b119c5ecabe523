"""Other libraries' data sets and ours, each usable by the other."""

"""Use data sets of other libraries here, and ours there."""

"""THE PAPER: masking, teacher, objectives and the step that joins them (HPM, arXiv 2304.05919 and 2312.13714)."""

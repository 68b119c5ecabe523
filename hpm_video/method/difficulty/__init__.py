"""Sources of difficulty (mask.difficulty), one file for each: they say how hard each unit of a clip is to reconstruct."""

"""Where the difficulty of units comes from: one file per source."""

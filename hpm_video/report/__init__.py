"""RESULTS -> PAGES: comparisons, pictures, cost tables."""

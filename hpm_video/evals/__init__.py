"""WEIGHTS -> SCORE -> TABLE: features of frozen encoders, what classifiers make of them, pictures and the report."""

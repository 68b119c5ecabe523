"""Read frames of files: each codec library is used in one module only."""

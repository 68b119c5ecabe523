"""FILE -> CLIP: which files (manifest, shards), when (sampling), how (readers), what (transforms), in which order (loader)."""

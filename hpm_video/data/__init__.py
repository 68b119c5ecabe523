"""FILE -> CLIP: which files (manifest), when (sampling), how (decode), what (transforms), in which order (loader)."""

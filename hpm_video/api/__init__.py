"""The public API: what `hpm_video` offers under its own name, and what the commands stand on."""

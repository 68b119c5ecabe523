"""The public API: the names of `hpm_video`, and the functions behind the commands."""

"""Run `python -m hpm_video` as the command `hpm-video`."""

import sys

from hpm_video.cli import main

if __name__ == "__main__":
    sys.exit(main())

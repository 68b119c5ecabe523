"""`python -m hpm_video` is the command `hpm-video`."""

import sys

from hpm_video.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Pretrain with HPM on Kinetics-400: `deepspeed scripts/pretrain_k400.py data.root=DIR [KEY=VALUE ...]`."""

import sys
from pathlib import Path

from hpm_video.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("pretrain", Path(__file__).parent.parent / "configs" / "pretrain" / "k400_vitb.yaml"))

"""Pretrain with HPM on Something-Something V2: `deepspeed scripts/pretrain_ssv2.py data.root=DIR [KEY=VALUE ...]`."""

import sys
from pathlib import Path

from hpm_video.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("pretrain", Path(__file__).parent.parent / "configs" / "pretrain" / "ssv2_vitb.yaml"))

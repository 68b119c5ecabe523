"""Pretrain with HPM on ImageNet-1k: `deepspeed scripts/pretrain_in1k.py data.root=DIR [KEY=VALUE ...]`."""

import sys
from pathlib import Path

from hpm_video.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("pretrain", Path(__file__).parent.parent / "configs" / "pretrain" / "in1k_vitb.yaml"))

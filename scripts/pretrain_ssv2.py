"""HPM pretraining on Something-Something V2: `deepspeed scripts/pretrain_ssv2.py data.root=DIR [KEY=VALUE ...]`."""

import sys
from pathlib import Path

from hpm_video.cli import pretrain_main

if __name__ == "__main__":
    sys.exit(pretrain_main(Path(__file__).parent.parent / "configs" / "pretrain" / "ssv2_vitb.yaml"))

"""Fine-tune a pretrained encoder, then test it: `deepspeed scripts/finetune.py --config FILE data.root=DIR init.weights=RUN [KEY=VALUE ...]`."""

import sys

from hpm_video.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("finetune"))

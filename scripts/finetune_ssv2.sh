#!/bin/sh
# Fine-tunes a pretrained ViT-B on Something-Something V2 and tests it. Rerun a stopped command to resume it.
#   scripts/finetune_ssv2.sh data.root=DIR init.weights=RUN [train.output=runs/ssv2] [KEY=VALUE ...]
# Uses every GPU of this machine. LAUNCH sets other arguments of deepspeed: LAUNCH="--num_gpus 4", or LAUNCH="--hostfile hosts" for nodes.
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/ssv2_vitb.yaml train.output=runs/finetune_ssv2 "$@"

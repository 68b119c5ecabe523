#!/bin/sh
# Fine-tunes a pretrained ViT-B on Kinetics-400 and tests it. Rerun a stopped command to resume it.
#   scripts/finetune_k400.sh data.root=DIR init.weights=RUN [train.output=runs/k400] [KEY=VALUE ...]
# Uses every GPU of this machine. LAUNCH sets other arguments of deepspeed: LAUNCH="--num_gpus 4", or LAUNCH="--hostfile hosts" for nodes.
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/k400_vitb.yaml train.output=runs/finetune_k400 "$@"

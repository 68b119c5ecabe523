#!/bin/sh
# Fine-tunes a pretrained ViT-B on UCF101 and tests it. Rerun a stopped command to resume it.
#   scripts/finetune_ucf101.sh data.root=DIR init.weights=RUN [train.output=runs/ucf101] [KEY=VALUE ...]
# Uses every GPU of this machine. LAUNCH sets other arguments of deepspeed: LAUNCH="--num_gpus 4", or LAUNCH="--hostfile hosts" for nodes.
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/ucf101_vitb.yaml train.output=runs/finetune_ucf101 "$@"

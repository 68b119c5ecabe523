#!/bin/sh
# Fine-tunes a pretrained ViT-B on UCF101 and tests it; the same command goes on where it was stopped.
#   scripts/finetune_ucf101.sh data.root=DIR init.weights=RUN [train.output=runs/ucf101] [KEY=VALUE ...]
# On every GPU of this machine; LAUNCH="--num_gpus 4" or LAUNCH="--hostfile hosts" sets what deepspeed is given (nodes).
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/ucf101_vitb.yaml train.output=runs/finetune_ucf101 "$@"

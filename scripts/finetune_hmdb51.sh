#!/bin/sh
# Fine-tunes a pretrained ViT-B on HMDB51 and tests it; the same command goes on where it was stopped.
#   scripts/finetune_hmdb51.sh data.root=DIR init.weights=RUN [train.output=runs/hmdb51] [KEY=VALUE ...]
# On every GPU of this machine; LAUNCH="--num_gpus 4" or LAUNCH="--hostfile hosts" sets what deepspeed is given (nodes).
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/hmdb51_vitb.yaml train.output=runs/finetune_hmdb51 "$@"

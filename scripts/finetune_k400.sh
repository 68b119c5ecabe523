#!/bin/sh
# Fine-tunes a pretrained ViT-B on Kinetics-400 and tests it; the same command goes on where it was stopped.
#   scripts/finetune_k400.sh data.root=DIR init.weights=RUN [train.output=runs/k400] [KEY=VALUE ...]
# On every GPU of this machine; LAUNCH="--num_gpus 4" or LAUNCH="--hostfile hosts" sets what deepspeed is given (nodes).
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/k400_vitb.yaml train.output=runs/finetune_k400 "$@"

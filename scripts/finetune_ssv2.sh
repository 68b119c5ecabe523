#!/bin/sh
# Fine-tunes a pretrained ViT-B on Something-Something V2 and tests it; the same command goes on where it was stopped.
#   scripts/finetune_ssv2.sh data.root=DIR init.weights=RUN [train.output=runs/ssv2] [KEY=VALUE ...]
# On every GPU of this machine; LAUNCH="--num_gpus 4" or LAUNCH="--hostfile hosts" sets what deepspeed is given (nodes).
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/ssv2_vitb.yaml train.output=runs/finetune_ssv2 "$@"

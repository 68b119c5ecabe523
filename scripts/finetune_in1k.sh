#!/bin/sh
# Fine-tunes a pretrained ViT-B on ImageNet-1k (ViT-L: --config configs/finetune/in1k_vitl.yaml) and tests it; the same command goes on where it was stopped.
#   scripts/finetune_in1k.sh data.root=ROOT/manifest init.weights=RUN [train.output=runs/in1k] [KEY=VALUE ...]
# On every GPU of this machine; LAUNCH="--num_gpus 4" or LAUNCH="--hostfile hosts" sets what deepspeed is given (nodes).
exec sh "$(dirname "$0")/launch.sh" finetune.py --config configs/finetune/in1k_vitb.yaml train.output=runs/finetune_in1k "$@"

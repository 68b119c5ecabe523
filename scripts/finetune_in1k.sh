#!/bin/sh
# Fine-tunes a pretrained ViT-B on ImageNet-1k and tests it; the same command goes on where it was stopped.
#   scripts/finetune_in1k.sh [--config configs/finetune/in1k_vitl.yaml] data.root=ROOT/manifest init.weights=RUN [train.output=runs/in1k] [KEY=VALUE ...]
# On every GPU of this machine; LAUNCH="--num_gpus 4" or LAUNCH="--hostfile hosts" sets what deepspeed is given (nodes).
config=configs/finetune/in1k_vitb.yaml
[ "${1:-}" != --config ] || { config="$2" && shift 2; }
exec sh "$(dirname "$0")/launch.sh" finetune.py --config "$config" train.output=runs/finetune_in1k "$@"

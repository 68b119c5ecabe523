#!/bin/sh
# Fine-tunes a pretrained ViT-B on ImageNet-1k and tests it. Rerun a stopped command to resume it.
#   scripts/finetune_in1k.sh [--config configs/finetune/in1k_vitl.yaml] data.root=ROOT/manifest init.weights=RUN [train.output=runs/in1k] [KEY=VALUE ...]
# Uses every GPU of this machine. LAUNCH sets other arguments of deepspeed: LAUNCH="--num_gpus 4", or LAUNCH="--hostfile hosts" for nodes.
config=configs/finetune/in1k_vitb.yaml
[ "${1:-}" != --config ] || { config="$2" && shift 2; }
exec sh "$(dirname "$0")/launch.sh" finetune.py --config "$config" train.output=runs/finetune_in1k "$@"

"""Names that other programs of this field have for our keys, for the suggestion after an unknown key."""

OTHER_NAMES = {  # key -> names
    "init.weights": "finetune pretrained pretrained_weights checkpoint ckpt init",
    "data.root": "data_path data_dir dataset data_set videos",
    "data.annotations": "annotation ann_file anno_path",
    "data.num_frames": "frames clip_len clip_length",
    "data.frame_size_px": "size input_size image_size img_size crop_size resolution short_side_size height",
    "data.stride": "sampling_rate frame_stride temporal_stride",
    "data.repeats": "num_sample repeated_aug repeated_sampling",
    "data.num_workers": "workers",
    "model.patch_px": "patch patch_size",
    "model.tubelet": "tubelet_size t_patch_size temporal_patch_size",
    "model.width": "dim embed_dim hidden_size",
    "model.depth": "layers num_layers",
    "model.num_heads": "heads",
    "model.drop_path": "drop_path_rate",
    "mask.mode": "masking mask_strategy",
    "mask.pattern": "mask_type masking_type",
    "mask.ratio": "mask_ratio masking_ratio",
    "optim.batch_size": "batch global_batch_size train_batch_size",
    "optim.base_lr": "lr blr learning_rate base_learning_rate",
    "optim.weight_decay": "wd",
    "optim.betas": "opt_betas",
    "optim.eps": "opt_eps",
    "optim.clip_norm": "clip_grad grad_clip max_grad_norm",
    "optim.warmup_share": "warmup warmup_epochs warmup_steps",
    "train.output": "out out_dir output_dir log_dir save_dir work_dir run_dir resume",
    "train.epochs": "max_epochs num_epochs",
    "train.steps": "max_steps iterations iters",
    "train.log_every_steps": "log_freq log_every logging_steps",
    "train.save_every_steps": "save_freq save_ckpt_freq save_every save_steps",
    "train.keep_checkpoints": "save_total_limit",
    "engine.device": "gpu gpus accelerator",
    "engine.precision": "amp use_amp bf16 fp16 dtype",
    "engine.micro_batch_size": "accum_iter update_freq accumulation_steps gradient_accumulation gradient_accumulation_steps",
}
_KEYS = {name: key for key, names in OTHER_NAMES.items() for name in names.split()}


def find_other_name(name: str) -> str:
    """Return the key that a name stands for, in any section: optim.base_lr for `lr` and `train.lr`; '' if there is none."""
    return _KEYS.get(name.rpartition(".")[2].lower().replace("-", "_"), "")

"""Tables of the runs and settings whose numbers are recorded. Each row is a name and the keys that differ from the base."""

from pathlib import Path

OLD = Path(__file__).parents[1] / "fixtures" / "before_rooms"
VIDEOS = f"data.root={OLD / 'labelled'}"

ONE_THREAD = "data.num_workers=0 engine.precision=fp32 engine.num_threads=1 engine.micro_batch_size=null"
CLIPS = "data.num_frames=4 data.frame_size_px=[16,16] data.num_held_out=3"
ENCODER = "model.patch_px=4 model.width=32 model.depth=2 model.num_heads=2"
SIX_STEPS = "train.steps=6 train.log_every_steps=1 train.measure_every_steps=3 train.save_every_steps=6"
PRETRAIN = (
    f"{VIDEOS} {ONE_THREAD} {CLIPS} {ENCODER} {SIX_STEPS} model.decoder_width=16 model.decoder_heads=2 model.decoder_depth=1 "
    "mask.ratio=0.75 mask.hard_share_start=0.25 mask.hard_share_end=0.75 mask.difficulty=teacher mask.sharpness=null "
    "mask.decoded_share=0.5 model.decoder_attention=self optim.batch_size=4 optim.base_lr=0.05 "
    "train.num_pictures=1 teacher.momentum_start=0.9 teacher.momentum_end=0.95"
)
SHARES = "mask.hard_share_start=0.25 mask.hard_share_end=0.75"  # those of PRETRAIN, where a preset has its own
FINETUNE = (
    f"{VIDEOS} {ONE_THREAD} {CLIPS} {ENCODER} {SIX_STEPS} optim.batch_size=4 optim.base_lr=0.05 augment.num_ops=0"
)
WEIGHTS = (
    f"{VIDEOS} {ONE_THREAD} {SIX_STEPS} data.num_held_out=3 optim.batch_size=4 optim.base_lr=0.05"  # the rest is theirs
)

TUBE, TOKEN, BLOCK = "mask.unit=tube", "mask.unit=token", "mask.unit=block mask.block=[1,2,2]"
ALL, PARTIAL, TWO = "teacher.view=all", "teacher.view=partial", "teacher.view=partial teacher.num_views=2"
WHOLE = "mask.decoded_share=1"
IMAGES = f"images.root={OLD / 'images'}"

PRETRAINING = {
    # each mode with each unit; targets, views and shares take turns
    "hpm-tube": f"{TUBE} {PARTIAL}",
    "hpm-token": f"mask.mode=hpm {TOKEN} {ALL} {WHOLE} objective.target=raw",
    "hpm-block": f"mask.mode=hpm {BLOCK} {TWO} objective.target=norm_token",
    "predictor_only-tube": f"mask.mode=predictor_only {TUBE} {WHOLE} objective.target=norm_token",
    "predictor_only-token": f"mask.mode=predictor_only {TOKEN} objective.target=norm_channel objective.level=token",
    "predictor_only-block": f"mask.mode=predictor_only {BLOCK} objective.target=teacher_features",
    "random-tube": f"mask.mode=random {TUBE} objective.target=raw",
    "random-token": f"mask.mode=random {TOKEN} objective.target=teacher_features",
    "random-block": f"mask.mode=random {BLOCK} {WHOLE} objective.target=norm_channel",
    "inverted-tube": f"mask.mode=inverted {TUBE} {TWO} {WHOLE} objective.target=teacher_features",
    "inverted-token": f"mask.mode=inverted {TOKEN} {PARTIAL} objective.target=norm_token",
    "inverted-block": f"mask.mode=inverted {BLOCK} {ALL} objective.target=norm_channel",
    "sharpness-motion": f"mask.mode=hpm {TUBE} mask.difficulty=motion mask.sharpness=3 mask.pattern=band_pass",
    "sharpness-token": f"mask.mode=hpm {TOKEN} mask.sharpness=-2 mask.pattern=multi_block",
    "split-motion": f"mask.mode=split {BLOCK} mask.difficulty=motion mask.visible_hard_share=0.25",
    "memory": f"mask.mode=hpm {TUBE} mask.difficulty=memory mask.sharpness=4",
    "decode-units": "mask.mode=random mask.decode=units",
    "decode-difficulty": f"{PARTIAL} mask.decode=difficulty",
    "decode-hardest-cross": "mask.mode=random mask.decode=hardest mask.difficulty=motion model.decoder_attention=cross",
    # the presets of methods
    "preset-hpm_teacher": f"preset=hpm_teacher {SHARES}",
    "preset-hpm_paper": f"preset=hpm_paper {SHARES} model.decoder_depth=2",
    "preset-random": "preset=random",
    "preset-videomae": "preset=videomae",
    "preset-random_cross": "preset=random_cross",
    "preset-hpm": "preset=hpm",
    # what the teacher sees
    "view-all": f"{ALL} {WHOLE}",
    "views-two": TWO,
    "view-share": "teacher.visible_share=0.5",
    "num_steps": f"{ALL} teacher.num_steps=1",
    "num_steps-partial": f"{TWO} data.num_frames=8 teacher.num_steps=2 mask.decoded_share=0.5",
    "aggregate-max": f"{ALL} teacher.aggregate=max",
    "aggregate-topk": f"{ALL} {BLOCK} teacher.aggregate=topk teacher.top_k=2",
    # targets and losses
    "target-raw": "objective.target=raw",
    "target-norm_token": f"objective.target=norm_token {WHOLE}",
    "target-teacher_features": f"objective.target=teacher_features {ALL}",
    "ranking-absolute": "objective.ranking=absolute objective.ranking_weight=0.5",
    "ranking-token": f"objective.level=token {WHOLE} objective.ranking_reaches_encoder=true",
    # models
    "cls_token": "model.cls_token=true model.positions=learned optim.decay_tokens=true",
    "predictor-early": "model.predictor_encoder_depth=1",
    "predictor-shared": "model.predictor_shared_depth=1 model.decoder_depth=2",
    "predictor-as-decoder": "model.predictor_depth=null model.decoder_depth=2 model.first_weights=hpm",
    "positions-sincos3d": "model.positions=sincos3d model.position_grid=[2,3,3]",
    "drop_path": "model.drop_path=0.3 model.checkpointing=true",
    "one-frame": "data.num_frames=1 model.tubelet=1 model.positions=sincos2d model.cls_token=true mask.round_down=visible",
    # batches
    "masks_per_clip": "mask.masks_per_clip=2",
    "masks_per_clip-drop_path": f"mask.masks_per_clip=2 model.drop_path=0.3 {TWO} engine.micro_batch_size=2",
    "images": f"{IMAGES} images.share=0.5",
    "images-inverted": f"{IMAGES} images.share=0.4 mask.mode=inverted mask.masks_per_clip=2 {BLOCK}",
    "accumulation": "engine.micro_batch_size=1 model.drop_path=0.3 optim.clip_norm=0.5",
    "repeats": "data.repeats=4 data.flip=true data.crop=random_resized",
    "dense": "data.sampling=dense data.stride=2 data.crop=center",
    "rule-videomae": "data.rule=videomae data.fps=5",
    "workers-cache": "data.num_workers=2 data.cache_gib=0.1 data.repeats=2 engine.micro_batch_size=auto",
    "shards": f"data.root={OLD / 'shards'} data.max_bad_share=0.5",
    "seed-bf16": "train.seed=7 engine.precision=bf16",
    "from-weights": f"preset=hpm_teacher init.weights={OLD / 'pretrained_half'} model.width=16 model.depth=1 model.decoder_width=8",
}

FINETUNING = {
    "plain": "augment.mixup_alpha=0 augment.cutmix_alpha=0 augment.erase_probability=0 augment.label_smoothing=0 model.drop_path=0",
    "mixup": "augment.cutmix_alpha=0",
    "cutmix": "augment.mixup_alpha=0",
    "mixup-or-cutmix": "optim.average_decay=0.9 model.drop_path=0.3",
    "erasing": "augment.mixup_alpha=0 augment.cutmix_alpha=0 augment.erase_probability=1",
    "randaugment": "augment.num_ops=4 augment.mixup_alpha=0 augment.cutmix_alpha=0",
    "average": "optim.average_decay=0.9 optim.layer_decay=0.5",
    "repeats": "data.repeats=2 augment.flip=false",
    "repeats-spread": "data.repeats=4 engine.micro_batch_size=2 data.num_workers=2",
    "cls_token": "model.cls_token=true model.pooling=cls model.positions=learned model.head_dropout=0.5",
    "accumulation": "engine.micro_batch_size=1 optim.clip_norm=0.5 augment.erase_probability=0.5",
    "from-run": f"init.weights={OLD / 'pretrained'}",
    "from-export": f"init.weights={OLD / 'exported' / 'videomae.pth'} optim.average_decay=0.9 data.num_frames=8",
}

# sources of clips: each lists the broken file
SOURCES = {"folder": OLD / "videos", "manifest": OLD / "with_broken", "shards": OLD / "shards"}
SAMPLING = {
    "dense": "data.sampling=dense data.stride=2",
    "fps": "data.fps=5 data.crop=random_resized data.flip=true",
    "videomae": "data.rule=videomae data.sampling=dense data.stride=3 data.crop=center",
    "images": f"data.root={OLD / 'images'} data.num_frames=1 model.tubelet=1",
}

# models whose first weights are recorded
ARCHITECTURES = {
    "default": "",
    "first-hpm": "model.first_weights=hpm",
    "first-videomae": "model.first_weights=videomae model.cls_token=true",
    "no-predictor": "mask.mode=random model.decoder_depth=2",
    "early-predictor": "model.predictor_encoder_depth=1 model.positions=learned",
    "shared-predictor": "model.predictor_shared_depth=1 model.decoder_depth=2 model.predictor_depth=null",
    "features": "objective.target=teacher_features model.first_weights=hpm model.tubelet=1",
    "seed": "train.seed=7 model.cls_token=true model.positions=learned",
}
CLASSIFIERS = {"mean": "", "cls": "model.cls_token=true model.pooling=cls model.positions=learned train.seed=7"}
POSITIONS = {
    "sincos1d": "model.positions=sincos1d",
    "sincos1d-stretched": "model.positions=sincos1d model.position_grid=[4,3,3]",
    "sincos2d": "model.positions=sincos2d data.num_frames=2",
    "sincos3d": "model.positions=sincos3d",
    "sincos3d-stretched": "model.positions=sincos3d model.position_grid=[1,2,2] data.num_frames=8",
}

# what the default suite leaves out: all runs and batches but these
QUICK = {
    *("pretrain/hpm-tube", "pretrain/predictor_only-token", "pretrain/random-token"),
    *("pretrain/inverted-block", "pretrain/preset-hpm_paper", "pretrain/predictor-early"),
    *("pretrain/masks_per_clip-drop_path", "pretrain/images", "finetune/mixup-or-cutmix"),
    *("batches/folder-4", "batches/manifest-1", "batches/shards-4", "batches/rank-1-of-2"),
}

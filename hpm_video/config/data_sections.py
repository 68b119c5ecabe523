"""The keys of data, images and augmentation."""

from dataclasses import dataclass

from omegaconf import MISSING

from hpm_video.config.data_sets import describe_layouts, list_layouts
from hpm_video.config.readers import FALLBACK, READERS, list_auto
from hpm_video.config.schema import key


@dataclass(kw_only=True)
class DataConfig:
    """Where clips come from, and how they are sampled, cropped and read."""

    root: str = key(
        MISSING,
        "training data: a folder with a manifest, shards (or their URL), tars of WebDataset, SSv2's files or any videos",
        path=True,
    )
    format: str = key(
        "auto",
        f"kind of data.root; auto: looks for shards.json, manifest.json, {describe_layouts(list_layouts().values())}, train/ and "
        "val/, else takes every video (and picture, if num_frames is 1); folder: takes every one, without splits",
        ["auto", "manifest", "shards", *list_layouts(), "folder"],
    )
    annotations: str | None = key(
        None,
        "folder of the manifest or of SSv2's json files; null = data.root (or data.root/labels)",
        path=True,
    )
    num_frames: int = key(16, "frames per clip", least=1, most=65_536)
    frame_size_px: list[int] = key([224, 224], "height and width of a clip, pixels", most=16_384)
    sampling: str = key(
        "auto",
        "frame sampling; segments: one frame from each of num_frames equal parts (SSv2); dense: every stride-th frame (K400); "
        "auto: the protocol of the data set, segments if it has none",
        ["auto", "segments", "dense"],
    )
    stride: int = key(4, "with sampling=dense: distance between two sampled frames, in frames", least=1, most=1_000_000)
    rule: str = key(
        "even",
        "even: clips and test views cover the whole video; videomae: exactly the frames that VideoMAE takes (docs/departures.md)",
        ["even", "videomae"],
    )
    fps: float | None = key(
        None,
        "frames per second: sample by time, as if each video had this rate; null = sample the frames as they are",
        least=0.01,
        most=10_000,
    )
    clips: str | None = key(
        None,
        "cut each film into pieces, each a sample of its own: uniform:SECONDS (all of the film, so that long ones count more), or "
        "constant_clips_per_video:SECONDS:NUMBER (as in pytorchvideo); null = each file is one sample",
    )
    repeats: int = key(
        1,
        "clips per decoded video (repeated sampling): the same frames, with a crop and flip for each clip",
        least=1,
        most=1000,
    )
    crop: str = key(
        "multiscale",
        "crop in pretraining: multiscale (VideoMAE), random_resized (MAE) or center",
        ["multiscale", "random_resized", "center"],
    )
    crop_scales: list[float] = key(
        [1.0, 0.875, 0.75, 0.66], "with crop=multiscale: crop sides, as shares of the short side", any_length=True
    )
    crop_area: list[float] = key([0.2, 1.0], "with crop=random_resized: smallest and largest share of the area")
    flip: bool = key(
        False, "flip half of the clips in pretraining (wrong for labels that distinguish left and right, as SSv2's)"
    )
    mean: list[float] = key([0.485, 0.456, 0.406], "mean of each channel, for pixel values in 0..1")
    std: list[float] = key([0.229, 0.224, 0.225], "standard deviation of each channel, for pixel values in 0..1")
    reader: str = key(
        "auto",
        f"video decoder; auto: {', then '.join(READERS[name].help for name in list_auto())} for files that the previous one cannot "
        f"read; any other: {READERS[FALLBACK].help} reads the files that it cannot read",
        ["auto", *READERS],
    )
    time_limit_s: float = key(
        60.0,
        "longest time to decode one file, seconds (reading from a disk or a store is not timed); a file that takes longer counts "
        "as unreadable, and the loader processes restart",
        least=0.1,
        most=1_000_000,
    )
    store_timeout_s: float = key(
        300.0,
        "with shards: longest time that a store (S3, HTTP, ...) may not answer, seconds; then the run stops, and no file counts as "
        "unreadable",
        least=0.1,
        most=1_000_000,
    )
    num_workers: int | str = key(
        "auto",
        "loader processes per rank; 0 = read in the training process; auto = one less than the cores of a rank, from 2 to 16",
        ["auto"],
        least=0,
        most=1024,
    )
    cache_gib: float = key(
        0.0,
        "memory of each loader process for decoded frames, GiB; 0 = no cache (a cache helps small data sets only)",
        least=0,
        most=1_000_000,
    )
    max_bad_share: float = key(
        0.05, "stop if more than this share of the samples read so far is unreadable", least=0, most=1
    )
    max_pixels: int = key(
        51_000_000,
        "largest decoded frame or picture, pixels (8K video has 33 million); a larger one counts as unreadable",
        least=1,
        most=178_000_000,
    )
    max_frames: int = key(
        5_000_000, "longest video, frames (at data.fps if it is set); a longer one counts as unreadable", least=1
    )
    max_sample_gib: float = key(
        2.0,
        "most memory for the decoded frames of one sample, GiB; a file that needs more counts as unreadable",
        least=0,
    )
    num_held_out: int = key(
        32, "clips for measurements during training, from the validation split if there is one, else held out", least=1
    )


@dataclass(kw_only=True)
class ImagesConfig:
    """Images that a video model trains on as well (OmniMAE, arXiv 2206.08356).

    Each one is a clip of model.tubelet equal frames, which is one time step. data.* sets crop and flip, mask.* the masks.
    """

    root: str | None = key(
        None,
        "images to train on as well: a folder with a manifest, shards (or their URL) or any pictures; null = none",
        path=True,
    )
    format: str = key(
        "auto",
        "kind of images.root; auto: looks for shards.json, manifest.json, else takes every picture",
        ["auto", "manifest", "shards", "folder"],
    )
    annotations: str | None = key(None, "folder of the manifest; null = images.root", path=True)
    share: float = key(
        0.5, "share of the optimizer steps whose batch has images only; epochs count videos only", least=0, most=1
    )


@dataclass(kw_only=True)
class AugmentConfig:
    """Augmentation of fine-tuning. Defaults: VideoMAE's recipe (timm's rand-m7-n4-mstd0.5-inc1, reprob 0.25, mixup, cutmix)."""

    num_ops: int = key(4, "RandAugment: operations per clip; 0 = none", least=0, most=100)
    op_probability: float = key(0.5, "RandAugment: probability that each drawn operation is applied", least=0, most=1)
    magnitude: float = key(7.0, "RandAugment: mean magnitude of an operation, 0..10", least=0, most=10)
    magnitude_std: float = key(
        0.5, "RandAugment: standard deviation of the magnitude, drawn for each operation", least=0, most=100
    )
    crop_area: list[float] = key([0.08, 1.0], "random resized crop: smallest and largest share of the area")
    flip: bool = key(True, "flip half of the clips horizontally; never if the labels distinguish left and right (SSv2)")
    erase_probability: float = key(0.25, "random erasing: share of the clips that get a box of noise", least=0, most=1)
    mixup_alpha: float = key(
        0.8,
        "mixup: the weights of two clips are drawn from Beta(alpha, alpha); 0 = no mixup. The first clip of a micro batch is mixed "
        "with the last, and so on; if data.repeats leaves fewer than two videos in it, each clip is decoded separately",
        least=0,
        most=1000,
    )
    cutmix_alpha: float = key(1.0, "cutmix: area shares, drawn in the same way; 0 = no cutmix", least=0, most=1000)
    cutmix_probability: float = key(
        0.5, "if mixup and cutmix are both on: probability that a micro batch gets cutmix", least=0, most=1
    )
    label_smoothing: float = key(0.1, "share of the target that is spread over all classes", least=0, most=1)

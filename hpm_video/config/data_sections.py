"""Keys of data, images and augmentation."""

from dataclasses import dataclass

from omegaconf import MISSING

from hpm_video.config.schema import key


@dataclass(kw_only=True)
class DataConfig:
    root: str = key(
        MISSING, "folder of a manifest, of shards (or their URL), of SSv2's layout, or of any videos", path=True
    )
    format: str = key(
        "auto",
        "auto looks for shards.json, manifest.json, SSv2's labels.json + train.json, train/ and val/, then takes every "
        "video (and picture, if num_frames is 1); folder: every one, without splits",
        ["auto", "manifest", "shards", "ssv2", "folder"],
    )
    annotations: str | None = key(
        None,
        "folder of the manifest or of SSv2's json files, where it is not data.root (or data.root/labels)",
        path=True,
    )
    num_frames: int = key(16, "frames of a clip", least=1, most=65_536)
    frame_size_px: list[int] = key([224, 224], "height and width of a clip, pixels", most=16_384)
    sampling: str = key(
        "auto",
        "segments: one frame of each of num_frames parts (SSv2); dense: every stride-th frame (K400); auto: dense for "
        "Kinetics, UCF101 and HMDB51 as their recipes name them, else segments",
        ["auto", "segments", "dense"],
    )
    stride: int = key(4, "dense sampling: frames from one to the next", least=1, most=1_000_000)
    rule: str = key(
        "even",
        "even: clips and test views cover the whole video; videomae: VideoMAE's own frames, to the frame (docs/departures.md)",
        ["even", "videomae"],
    )
    fps: float | None = key(
        None,
        "sample by time, as if each video had this many frames a second; null = by its own frames",
        least=0.01,
        most=10_000,
    )
    repeats: int = key(
        1,
        "clips taken of a video each time it is decoded (repeated sampling): same frames, each its own crop and flip",
        least=1,
        most=1000,
    )
    crop: str = key(
        "multiscale",
        "multiscale (VideoMAE), random_resized (MAE) or center",
        ["multiscale", "random_resized", "center"],
    )
    crop_scales: list[float] = key([1.0, 0.875, 0.75, 0.66], "multiscale: shares of the short side", any_length=True)
    crop_area: list[float] = key([0.2, 1.0], "random_resized: least and most share of the area")
    flip: bool = key(
        False, "mirror half of the clips left-right (wrong for labels that name left and right, as SSv2's)"
    )
    mean: list[float] = key([0.485, 0.456, 0.406], "per channel, of values in 0..1")
    std: list[float] = key([0.229, 0.224, 0.225], "per channel, of values in 0..1")
    reader: str = key(
        "auto",
        "auto: PyAV, torchcodec for files it cannot read; else this one, and PyAV for files it cannot read",
        ["auto", "pyav", "torchcodec", "decord"],
    )
    time_limit_s: float = key(
        60.0,
        "a loader process that decodes one file for longer is ended, the file counted as unreadable; reading from a disk or a "
        "store does not count",
        least=0.1,
        most=1_000_000,
    )
    store_timeout_s: float = key(
        300.0,
        "shards: how long a store (S3, HTTP, ...) may not answer before the run stops; no file is counted as bad for that",
        least=0.1,
        most=1_000_000,
    )
    num_workers: int = key(2, "loader processes of each rank; 0 = read in the training process", least=0, most=1024)
    cache_gib: float = key(
        0.0,
        "decoded frames kept in memory by each reading process, GiB; 0 = none (small sets only)",
        least=0,
        most=1_000_000,
    )
    max_bad_share: float = key(
        0.05, "stop when more than this share of the samples read so far could not be decoded", least=0, most=1
    )
    max_pixels: int = key(
        51_000_000,
        "most pixels of a decoded frame or picture (8K video has 33 million); a file beyond it counts as unreadable",
        least=1,
        most=178_000_000,
    )
    max_frames: int = key(
        5_000_000, "most frames of a video, at data.fps if it is set; a file beyond it counts as unreadable", least=1
    )
    max_sample_gib: float = key(
        2.0,
        "most memory that the decoded frames of one sample may take, GiB; a file beyond it counts as unreadable",
        least=0,
    )
    num_held_out: int = key(
        32, "clips kept apart for measurements while training (from the validation split where there is one)", least=1
    )


@dataclass(kw_only=True)
class ImagesConfig:
    """Images that a video model is trained on as well (OmniMAE, arXiv 2206.08356): clips of model.tubelet equal frames, one
    time step, cropped and mirrored as data.* says, masked as mask.* says."""

    root: str | None = key(
        None,
        "images to train on besides the videos: folder of a manifest, of shards (or their URL), or of any; null = none",
        path=True,
    )
    format: str = key(
        "auto",
        "auto looks for shards.json, manifest.json, then takes every picture",
        ["auto", "manifest", "shards", "folder"],
    )
    annotations: str | None = key(None, "folder of the manifest, where it is not images.root", path=True)
    share: float = key(
        0.5, "share of the optimizer steps whose whole batch is images; epochs count the videos alone", least=0, most=1
    )


@dataclass(kw_only=True)
class AugmentConfig:
    """Of fine-tuning; the defaults are VideoMAE's recipe (timm's rand-m7-n4-mstd0.5-inc1, reprob 0.25, mixup, cutmix)."""

    num_ops: int = key(4, "RandAugment: operations drawn for a clip; 0 = none", least=0, most=100)
    op_probability: float = key(0.5, "RandAugment: how likely each drawn operation is applied", least=0, most=1)
    magnitude: float = key(7.0, "RandAugment: mean strength of an operation, 0..10", least=0, most=10)
    magnitude_std: float = key(0.5, "RandAugment: spread of the strength, drawn for each operation", least=0, most=100)
    crop_area: list[float] = key([0.08, 1.0], "random resized crop: least and most share of the area")
    flip: bool = key(True, "mirror half of the clips left-right; never where the labels tell left from right (SSv2)")
    erase_probability: float = key(0.25, "random erasing: share of the clips with a box of noise", least=0, most=1)
    mixup_alpha: float = key(
        0.8,
        "mixup: Beta(alpha, alpha) gives the shares of the two clips, which stand at mirrored places of a micro batch; 0 = no "
        "mixup. If a micro batch holds less than two videos (data.repeats), each clip is decoded alone, to have others to mix",
        least=0,
        most=1000,
    )
    cutmix_alpha: float = key(1.0, "cutmix: the same; 0 = no cutmix", least=0, most=1000)
    cutmix_probability: float = key(
        0.5, "how likely a micro batch gets cutmix and not mixup, where both are on", least=0, most=1
    )
    label_smoothing: float = key(0.1, "share of a target that is spread over all classes", least=0, most=1)

"""Supervised networks of pytorchvideo that `probe --yardstick` scores. To add one, add its row here."""

from dataclasses import dataclass

from hpm_video.config.tables import Row, Table


@dataclass(frozen=True, kw_only=True)
class Yardstick(Row):
    """A network of pytorchvideo's model zoo, and the clips that it was tested on. Its module has the address of its weights."""

    num_frames: int
    stride: int
    side_px: int
    width: int  # of the features before its classifier


HUB = "pytorchvideo.models.hub"
YARDSTICKS = Table(
    x3d_s=Yardstick(help="X3D-S", implementation=f"{HUB}.x3d:x3d_s", num_frames=13, stride=6, side_px=182, width=2048),
    slow_r50=Yardstick(
        help="Slow, ResNet-50", implementation=f"{HUB}.resnet:slow_r50", num_frames=8, stride=8, side_px=256, width=2048
    ),
    mvit_base_16x4=Yardstick(
        help="MViT-B",
        implementation=f"{HUB}.vision_transformers:mvit_base_16x4",
        num_frames=16,
        stride=4,
        side_px=224,
        width=768,
    ),
)

"""Results that other projects published; this project ran none of them.

Top-1 in per cent after full fine-tuning of a ViT, with the size of the encoder and the epochs of pretraining. Sources without
an arXiv number could not be checked.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """A published result, top-1 in per cent; None if it was not published."""

    method: str
    size: str
    epochs: str
    ssv2: float | None
    k400: float | None
    needs: str  # in addition to the videos
    source: str


VIDEOMAE, MVD = "arXiv 2203.12602", "arXiv 2212.04500"
MGMAE = "arXiv 2308.10794"
PUBLISHED = (
    Published("VideoMAE", "b", "800", 69.6, 80.0, "", VIDEOMAE),
    Published("VideoMAE", "b", "2400 / 1600", 70.8, 81.5, "", VIDEOMAE),
    Published("AdaMAE (95 % masked)", "b", "800", 70.0, 81.7, "learned sampler", "arXiv 2211.09120"),
    Published("MGMAE", "b", "800", 71.0, 81.2, "RAFT flow", MGMAE),
    Published("MGMAE", "b", "2400 / 1600", 72.3, 81.8, "RAFT flow", MGMAE),
    Published("SIGMA", "b", "800", 70.9, 81.6, "DINO", "arXiv 2407.15447"),
    Published("TrackMAE, pixels", "b", "800", 70.1, 80.8, "CoTracker3", ""),
    Published("TrackMAE, CLIP", "b", "800", 72.8, 83.9, "CoTracker3, CLIP", ""),
    Published("SMILE", "b", "600", 72.1, 83.1, "CLIP", "arXiv 2504.00527"),
    Published("MVD (large teachers)", "b", "400", 73.7, 83.4, "two teachers", MVD),
    Published("OmniMAE", "b", "1600", 69.5, None, "", "arXiv 2206.08356"),
    Published("V-SWIFT (VideoMAE, quick)", "b", "", 69.96, None, "", ""),
    Published("VideoMAE", "l", "", 74.3, 85.2, "", VIDEOMAE),
    Published("MVD", "l", "", 76.7, 86.4, "two teachers", MVD),
    Published("TrackMAE", "l", "", 75.7, 86.7, "CoTracker3 (+ CLIP)", ""),
)


class PublishedCost(NamedTuple):
    """A published cost of pretraining."""

    method: str
    a100_hours: float
    source: str


COSTS = (  # pretraining on Something-Something V2
    PublishedCost("VideoMAE", 1818, VIDEOMAE),
    PublishedCost("VideoMAE V2, dual masking", 1018, "arXiv 2303.16727"),
    PublishedCost("V-SWIFT", 200, ""),
)
BEST_MFU = 0.287  # share of the peak FLOP/s that V-SWIFT (VideoMAE, GPU decoding, bf16) reached; the highest published
BEST_CLIPS_PER_S = (280, 332)  # of one A100, same source


def published_table(data: str = "") -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table. data: ssv2 or k400; empty = both."""
    columns = {"ssv2": "SSv2 top-1", "k400": "K400 top-1"}
    shown = [data] if data else list(columns)
    rows = [
        [p.method, f"ViT-{p.size.upper()}", p.epochs or "-"]
        + ["-" if getattr(p, name) is None else f"{getattr(p, name)}" for name in shown]
        + [p.needs or "-", p.source or "not checked"]
        for p in PUBLISHED
        if any(getattr(p, name) is not None for name in shown)
    ]
    return ["published, not ours", "encoder", "epochs", *(columns[n] for n in shown), "needs", "source"], rows

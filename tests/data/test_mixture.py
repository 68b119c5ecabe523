"""Images among videos: which steps have them, and that the two streams do not depend on how they are read."""

import numpy as np
import pytest
import torch
from PIL import Image

from hpm_video.catalog.listing import IMAGE_SUFFIXES
from hpm_video.config import DataConfig
from hpm_video.data.dataset import ClipDataset
from hpm_video.data.loader import make_loader
from hpm_video.data.mixture import ImageSteps, make_mixed_loader, name_row
from hpm_video.data.source import open_source
from hpm_video.preprocess.encode import write_video


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[ClipDataset, ClipDataset]:
    """Five videos; seven images, of which one cannot be read."""
    root, rng = tmp_path_factory.mktemp("mixture"), np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(7):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(root / "images" / f"{number}.png")
    (root / "images" / "6.png").write_bytes(b"no picture")
    for number in range(5):
        write_video(root / f"{number}.mkv", rng.integers(0, 255, (9, 20, 24, 3), dtype=np.uint8), 10)
    config = DataConfig(root=str(root), num_frames=4, frame_size_px=[16, 16])
    image = DataConfig(root=str(root / "images"), num_frames=2, frame_size_px=[16, 16], sampling="segments")
    sources = open_source(config, "train"), open_source(image, "train", IMAGE_SUFFIXES)
    return tuple(
        ClipDataset(s, c, n, training=True) for n, (s, c) in enumerate(zip(sources, (config, image), strict=True))
    )


def read(sets, share=0.4, start=0, steps=10, rank=0, world_size=1, micro=4, workers=0):  # noqa: PLR0913
    split = {"batch_size": 4, "micro": micro, "rank": rank, "world_size": world_size, "num_workers": workers}
    image_steps = ImageSteps(share, 0)
    stream = make_mixed_loader(*sets, image_steps, start, steps, **split)
    return [next(stream) for _ in range((steps - start) * 4 // (micro * world_size))]


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.75])
def test_the_share_holds_at_every_step_whatever_the_seed(share) -> None:
    for seed in range(5):
        chosen = ImageSteps(share, seed)
        counted = np.cumsum([0] + [step in chosen for step in range(1000)])
        assert [chosen.before(step) for step in range(1001)] == counted.tolist()
        assert np.abs(counted - share * np.arange(1001)).max() < 1
    starts = {ImageSteps(share, seed).offset for seed in range(5)}
    assert len(starts) == 5


def test_a_batch_is_of_one_kind_and_an_image_is_equal_frames(sets) -> None:
    chosen = ImageSteps(0.4, 0)
    for step, batch in enumerate(read(sets)):
        assert batch.clip.shape == (4, 3, 2 if step in chosen else 4, 16, 16)
        names = [name_row(*sets, row) for row in batch.sample.tolist()]
        assert {name[-3:] for name in names} == {"png" if step in chosen else "mkv"}
        if step in chosen:
            assert torch.equal(batch.clip[:, :, 0], batch.clip[:, :, 1])
        assert {f.path for f in batch.failures} <= {"6.png"}


def test_each_stream_is_what_it_is_alone(sets) -> None:
    chosen = ImageSteps(0.4, 0)
    alone = [iter(make_loader(s, 4, 4, 0, 1, 0, 0, 10)) for s in sets]
    for step, batch in enumerate(read(sets)):
        assert torch.equal(batch.clip, next(alone[step in chosen]).clip)


def test_neither_ranks_nor_rounds_nor_workers_nor_a_resume_change_what_is_read(sets) -> None:
    whole = read(sets)
    split = [read(sets, rank=rank, world_size=2, micro=1) for rank in range(2)]
    for step, batch in enumerate(whole):
        rows = torch.cat([split[k % 2][step * 2 + k // 2].clip for k in range(4)])
        assert torch.equal(rows, batch.clip)
    for other in (read(sets, workers=3), [*read(sets, steps=5), *read(sets, start=5)], whole[:7] + read(sets, start=7)):
        assert all(
            torch.equal(a.clip, b.clip) and torch.equal(a.sample, b.sample) for a, b in zip(whole, other, strict=True)
        )

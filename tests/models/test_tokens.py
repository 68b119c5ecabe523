"""Tokens and positions against plain loops and independent formulas."""

import numpy as np
import pytest
import torch

from hpm_video.models.tokens import patchify, sincos1d, sincos2d, sincos3d, take, take_patches, unpatchify


@pytest.mark.parametrize(
    ("shape", "tubelet", "patch"), [((2, 3, 4, 8, 12), 2, 4), ((2, 3, 1, 8, 8), 1, 4), ((1, 3, 6, 4, 4), 3, 2)]
)
def test_unpatchify_inverts_patchify(shape, tubelet, patch) -> None:
    clip = torch.randn(shape)
    grid = (shape[2] // tubelet, shape[3] // patch, shape[4] // patch)
    assert torch.equal(unpatchify(patchify(clip, tubelet, patch), grid, tubelet, patch), clip)


def test_patchify_order_by_loops() -> None:
    clip = torch.randn(1, 3, 4, 4, 6)
    tokens = patchify(clip, 2, 2)
    n = 0
    for t in range(2):
        for h in range(2):
            for w in range(3):
                values = [
                    clip[0, c, 2 * t + dt, 2 * h + i, 2 * w + j]
                    for dt in range(2)
                    for i in range(2)
                    for j in range(2)
                    for c in range(3)
                ]
                assert torch.equal(tokens[0, n], torch.stack(values))
                n += 1
    assert tokens.shape[1] == n


def test_sincos1d_is_the_transformer_table() -> None:
    table = sincos1d((2, 3, 4), 8).numpy()
    for position in range(24):
        for j in range(8):
            angle = position / np.power(10000, 2 * (j // 2) / 8)
            assert table[position, j] == pytest.approx(np.sin(angle) if j % 2 == 0 else np.cos(angle), abs=1e-6)


def test_sincos2d_is_mae_table_and_constant_in_time() -> None:
    table = sincos2d((2, 3, 4), 8).numpy().reshape(2, 3, 4, 8)
    omega = 1 / 10000 ** (np.arange(2) / 2)
    for row in range(3):
        for column in range(4):
            parts = [f(x * omega) for x in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(table[0, row, column], np.concatenate(parts), atol=1e-6)
    np.testing.assert_array_equal(table[0], table[1])


def test_sincos3d_is_time_plus_place() -> None:
    table = sincos3d((3, 2, 2), 8).reshape(3, 4, 8)
    assert torch.allclose(table[1] - table[0], (table[1] - table[0])[:1].expand(4, -1), atol=1e-6)
    assert not torch.allclose(table[0], table[1])


def test_take_gathers_clip_by_clip() -> None:
    tokens = torch.randn(2, 5, 3)
    index = torch.tensor([[4, 0], [1, 1]])
    expected = torch.stack([tokens[b][index[b]] for b in range(2)])
    assert torch.equal(take(tokens, index), expected)


@pytest.mark.parametrize(("shape", "tubelet", "patch"), [((3, 3, 8, 12, 20), 2, 4), ((2, 3, 1, 8, 8), 1, 2)])
@pytest.mark.parametrize("frame_by_frame", [False, True])
def test_patches_are_taken_as_patchify_gives_them(shape, tubelet, patch, frame_by_frame: bool) -> None:
    """However the clip is stored; numbers may come twice and in any order."""
    clip = torch.randn(shape, dtype=torch.float64)
    if frame_by_frame:
        clip = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    tokens = patchify(clip, tubelet, patch)
    index = torch.randint(tokens.shape[1], (shape[0], 7))
    assert torch.equal(take_patches(clip, index, tubelet, patch), take(tokens, index))

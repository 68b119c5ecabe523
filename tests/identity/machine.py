"""The numerics of this machine: what decides whether float results are the same, bit for bit."""

import hashlib

import numpy as np
import torch
import torch.nn.functional as F


def describe_machine() -> dict[str, str]:
    """Return the versions, what torch's kernels use of the processor, and a hash of what they compute."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": "1",
        "probe": probe(),
    }


def probe() -> str:
    """Hash the results of what a training step is made of: a small network of plain torch, trained for three steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _probe()
    finally:
        torch.set_num_threads(threads)


def _probe() -> str:
    whole = hashlib.sha256()
    numbers = np.random.default_rng(0)
    for width, length in ((32, 12), (16, 33), (8, 5)):
        draw = [torch.from_numpy(numbers.integers(-64, 65, (width, 3 * width))).float() / 256 for _ in range(2)]
        first, second = draw[0].requires_grad_(), draw[1].T.contiguous().requires_grad_()
        x = torch.from_numpy(numbers.integers(-64, 65, (4, length, width))).float() / 32
        optimizer = torch.optim.AdamW([first, second], lr=1e-2)
        for _ in range(3):
            q, k, v = (F.layer_norm(x, (width,)) @ first).view(4, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            loss = (
                F.linear(F.gelu(F.linear(seen, first.T)), second.T).sub(x).square().mean()
                + seen.softmax(-1).log().std()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for tensor in (loss, first.grad, second.grad, first, second):
                whole.update(tensor.detach().numpy().tobytes())
    angles = torch.arange(1000, dtype=torch.float64) / 7
    for tensor in (
        angles.sin(),
        angles.cos(),
        (-angles / 10).exp(),
        angles.float().erf(),
        torch.empty(999).normal_(generator=torch.Generator().manual_seed(0)),
    ):
        whole.update(tensor.numpy().tobytes())
    frames = torch.from_numpy(numbers.integers(0, 256, (2, 3, 13, 17), dtype=np.uint8))
    for mode in ("bilinear", "bicubic"):
        whole.update(F.interpolate(frames, (16, 16), mode=mode, antialias=True).numpy().tobytes())
    return whole.hexdigest()[:16]

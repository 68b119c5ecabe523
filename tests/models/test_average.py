"""The running average of weights, against its closed form; teacher and fine-tuning use this one."""

import ast
from pathlib import Path

import torch
from torch import nn

import hpm_video
from hpm_video.models.average import update_average


def test_closed_form() -> None:
    """After n updates with the same weights w: momentum^n a + (1 - momentum^n) w; other names are passed over."""
    average, weights = nn.Linear(3, 2), nn.Linear(3, 2).bfloat16()
    start = {name: parameter.detach().clone() for name, parameter in average.named_parameters()}
    given = {name: parameter.detach() for name, parameter in weights.named_parameters()}
    average.requires_grad_(False)
    for _ in range(5):
        groups = iter([{"weight": given["weight"], "other.weight": given["bias"]}, {"bias": given["bias"]}, {}])
        update_average(average, groups, 0.9)
    for name, parameter in average.named_parameters():
        expected = 0.9**5 * start[name] + (1 - 0.9**5) * given[name].float()
        assert parameter.dtype == torch.float32 and torch.allclose(parameter, expected, atol=1e-6)


def test_there_is_one() -> None:
    library = Path(hpm_video.__file__).parent
    users = [f for f in library.rglob("*.py") if "_foreach_lerp_" in f.read_text()]
    assert users == [library / "models" / "average.py"]
    calls = {
        f.relative_to(library).parts[0]
        for f in library.rglob("*.py")
        for node in ast.walk(ast.parse(f.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "update_average"
    }
    assert calls <= {"method", "train"} and "method" in calls

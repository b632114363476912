"""Training of `small`: low rank beside a frozen layer, and a run that is killed and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

pytest.importorskip("onnx", reason="training needs the extra `train`")
from training.small import LoRA, keep, resume


def parts() -> tuple[nn.ModuleList, torch.optim.Optimizer]:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2).requires_grad_(False)
    modules = nn.ModuleList([LoRA(linear, torch.randn(1, 3), torch.randn(2, 1)), nn.Linear(2, 5)])
    return modules, torch.optim.AdamW([p for p in modules.parameters() if p.requires_grad], 0.1)


def steps(modules: nn.ModuleList, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        modules[1](modules[0](torch.ones(1, 3) + number)).square().sum().backward()
        optimizer.step()


def test_low_rank_is_added_at_the_scale_it_is_shipped_with() -> None:
    linear = nn.Linear(3, 2, bias=False)
    low, high = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0], [-1.0]])
    given = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.equal(LoRA(linear, low, high)(given), linear(given) + torch.tensor([[1.0, -1.0]]))


def test_a_killed_run_goes_on_as_an_unbroken_one(tmp_path: Path) -> None:
    whole, optimizer = parts()
    steps(whole, optimizer, 2)
    keep(whole, optimizer, 2, tmp_path / "kept.safetensors")
    steps(whole, optimizer, 2)
    broken, fresh = parts()
    assert resume(broken, fresh, load_file(tmp_path / "kept.safetensors")) == 2
    steps(broken, fresh, 2)
    state = broken.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())

"""Discovery reads a pass without leaving anything behind."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ffn_probe.discover import discover, scan
from ffn_probe.discover.trace import trace
from ffn_probe.errors import ExampleError, ModelError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.drop = nn.Dropout(0.5)
        self.seen = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.seen(x + self.drop(self.down(torch.relu(self.up(self.norm(x))))))


def test_a_scan_leaves_mode_buffers_hooks_and_generator_as_they_were() -> None:
    model = Block()
    model.drop.eval()
    state = copy.deepcopy(model.state_dict())
    before = torch.get_rng_state()
    discover(model, torch.ones(4, 16))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.drop.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    assert not any(hooks)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_rejected_example_names_the_shapes_and_leaves_no_hook() -> None:
    with pytest.raises(ExampleError, match=r"float32\[4, 7\]"):
        discover(Block(), torch.ones(4, 7))
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_model_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = Block()
    with pytest.raises(ModelError, match="meta device"):
        discover(model, torch.ones(4, 16))


def test_a_model_without_an_ffn_is_refused_with_what_came_near() -> None:
    with pytest.raises(ModelError, match="no FFN in Linear"):
        discover(nn.Linear(4, 4), torch.ones(2, 4))


def test_two_products_on_one_line_have_different_trails() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2) + (x * 3)

    trails = [n.trail for n in trace(Twice(), torch.ones(3)).nodes if n.op == "mul"]
    again = [n.trail for n in trace(Twice(), torch.ones(3)).nodes if n.op == "mul"]
    assert len(set(trails)) == 2
    assert trails == again


def test_a_scripted_model_is_refused() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.trace(Plain(), torch.ones(2))
    with pytest.raises(ModelError, match="scripted"):
        scan(scripted, torch.ones(2))

"""Pairs give the Joint sketch of the same rows."""

import numpy as np
import pytest
import torch

from ffn_probe.probes.pairs import Pairs
from ffn_probe.sketches import Joint

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("way")


def three(rows: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    g, u = (torch.randn(rows, 5, generator=generator).to(dtype) for _ in range(2))
    g[0, :] = torch.tensor([2.0**-12, -(2.0**-12), 2.0**11, -(2.0**11), 1e6])
    g[1, :] = torch.tensor([0.0, -0.0, 1e-30, -1e6, -2.0])
    u[2, 1], g[3, 2] = torch.inf, torch.nan
    return g, u, torch.nn.functional.silu(g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_the_joint_of_the_same_rows(dtype: torch.dtype) -> None:
    pairs = Pairs(5, (-1,), CPU)
    parts = [three(rows, seed, dtype) for seed, rows in enumerate((30, 7, 100))]
    for g, u, a in parts:
        pairs.add(g, u, a, None)
    (row,) = pairs.rows()
    mine = Joint.from_row(row)
    truth = Joint.of(*(torch.cat(x).float().numpy() for x in zip(*parts, strict=True)))
    assert np.array_equal(mine.count, truth.count)
    assert np.array_equal(mine.grid, truth.grid)
    for name in ("mean_gate", "mean_value", "mean_act", "mean_hidden"):
        assert np.allclose(getattr(mine, name), getattr(truth, name), rtol=1e-9)
    for name in ("c_gg", "c_uu", "c_gu", "c_aa", "c_au"):
        assert np.allclose(getattr(mine, name), getattr(truth, name), rtol=1e-6, atol=1e-6)
    assert pairs.rows() == []


def test_labels_keep_experts_apart() -> None:
    pairs = Pairs(5, (2, 4), CPU)
    g, u, a = three(40, 3, torch.float32)
    labels = torch.arange(40) % 3  # 2: dropped
    pairs.add(g, u, a, labels)
    rows = {row["expert"]: Joint.from_row(row) for row in pairs.rows()}
    for ordinal, expert in enumerate((2, 4)):
        chosen = labels == ordinal
        truth = Joint.of(*(x[chosen].numpy() for x in (g, u, a)))
        assert np.array_equal(rows[expert].grid, truth.grid)
        assert np.allclose(rows[expert].c_gu, truth.c_gu, rtol=1e-6, atol=1e-6)

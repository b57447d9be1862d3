"""The joint forms of gate and value keep within the bounds that their sources give."""

import pytest
import torch

from ffn_probe.zoo.gates import GATES

BOUNDS = {
    "clamped_swiglu": (-100.0, 100.0),  # DeepSeek-V4, limit 10
    "gpt_oss_swiglu": (-42.0, 56.0),  # limit 7: from -6 * 7 to 8 * 7
    "post_clamped_swiglu": (-256.0, 256.0),  # Step-3.7, limit 16
    "situ_glu": (-100.0, 100.0),  # Kimi K3, 4 * 25
}


@pytest.mark.parametrize("form", GATES, ids=lambda form: form.name)
def test_a_bounded_gate_reaches_its_bounds_and_no_further(form):
    side = torch.cat([torch.linspace(-60, 60, 1201), torch.tensor([-1e4, 1e4])]).double()
    gate, value = torch.meshgrid(side, side, indexing="ij")
    hidden = form.function(gate, value, **form.params)
    low, high = BOUNDS[form.name]
    assert float(hidden.max()) == pytest.approx(high, rel=1e-3)
    assert float(hidden.min()) == pytest.approx(low, rel=1e-3)
    assert float(hidden.abs().max()) <= max(-low, high)

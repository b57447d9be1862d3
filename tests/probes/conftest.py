"""The two ways to feed the state of a site on the CPU."""

import pytest
import torch

from ffn_probe.probes import fused


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs with the compiled kernels and with plain torch."""
    monkeypatch.setenv(fused.SWITCH, request.param)
    assert fused.usable(torch.device("cpu")) is (request.param == "compiled")
    return str(request.param)

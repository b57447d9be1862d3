"""The rows kept for the quantizers give the totals of quantizing them."""

import numpy as np
import pytest
import torch

from ffn_probe.formats import quantize
from ffn_probe.probes.noise import NoiseRows
from ffn_probe.sketches import QuantNoise

RNG = np.random.default_rng(12)


def totals(rows: np.ndarray) -> QuantNoise:
    kept = NoiseRows(rows.shape[1], 16, torch.device("cpu"))
    kept.add(torch.from_numpy(rows), 0)
    (line,) = kept.rows(torch.from_numpy(np.abs(rows).max(axis=0)))
    return QuantNoise.from_row(line)


def test_clipped_and_zeroed_values_are_counted() -> None:
    gate, value = RNG.standard_normal((2, 8, 256))
    rows = (gate / (1 + np.exp(-gate)) * value).astype(np.float32)
    found = totals(rows)
    for key in ("mxfp8:block", "mxfp4:block", "int8:tensor"):
        result = quantize(rows, key.split(":")[0])
        assert found[key].clipped == result.clipped.sum()
        assert found[key].zeroed == ((result.values == 0) & (rows != 0)).sum()
    assert found["mxfp8:block"].clipped > 0 == found["int8:tensor"].clipped
    assert found["mxfp4:block"].zeroed > 0


def test_bfloat16_rows_lose_nothing_in_bfloat16() -> None:
    rows = RNG.standard_normal((8, 128)).astype(np.float32)
    assert totals(rows).sqnr_db("fp16:none") == pytest.approx(73.6, abs=0.8)
    assert totals(rows).sqnr_db("bf16:none") == pytest.approx(55.6, abs=0.8)
    rounded = torch.from_numpy(rows).bfloat16().float().numpy()
    assert totals(rounded).sqnr_db("bf16:none") == np.inf

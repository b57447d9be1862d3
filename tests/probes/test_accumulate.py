"""An Accumulator's rows are the sketches of the same values."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ffn_probe.probes import kernels
from ffn_probe.probes.accumulate import FOLDS, Accumulator
from ffn_probe.probes.address import Address
from ffn_probe.sketches import BitHistogram, Channels, Extremes, Moments
from ffn_probe.sketches.widen import widen

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("way")
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-40, 3.4e38, -65504.0, 448.0]


def values(rows: int, channels: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator) * (1 + seed) + seed
    return x.to(dtype)


def numpy_of(x: torch.Tensor) -> np.ndarray:
    return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()


def found(
    rows: Mapping[str, list[dict[str, Any]]], table: str, fold: int, expert: int = -1
) -> dict[str, Any]:
    hits = [r for r in rows[table] if r["fold"] == fold and r["expert"] == expert]
    assert len(hits) == 1
    return hits[0]


def close(a: Moments, b: Moments) -> bool:
    if (a.count, a.nan, a.pos_inf, a.neg_inf) != (b.count, b.nan, b.pos_inf, b.neg_inf):
        return False
    scale = b.m2 / max(b.count, 1)
    pairs = [(a.mean, b.mean, scale**0.5), (a.m2, b.m2, b.m2), (a.m4, b.m4, b.m4)]
    pairs.append((a.m3, b.m3, b.m2 * scale**0.5))
    return all(abs(x - y) <= 1e-9 * abs(unit) + 1e-300 for x, y, unit in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("special", [False, True])
def test_rows_are_the_sketches_of_the_values(dtype: torch.dtype, special: bool) -> None:  # noqa: FBT001
    bits, folds = 7, {0: [7, 90], 1: [1], 5: [200]}
    accumulator = Accumulator(24, (-1,), bits, CPU)
    seen: dict[int, list[torch.Tensor]] = {}
    for fold, sizes in folds.items():
        for i, size in enumerate(sizes):
            x = values(size, 24, dtype, fold + i)
            if special and size > 20:
                x[3:13, 2] = torch.tensor(SPECIAL).to(dtype)
                x[14] = math.nan
            accumulator.add(x, Address(step=i, fold=fold))
            seen.setdefault(fold, []).append(x)
    rows = accumulator.rows()
    for fold, parts in seen.items():
        x = numpy_of(torch.cat(parts))
        wide = widen(x).clip(-3.4028234663852886e38, 3.4028234663852886e38)
        expected = np.where(np.isfinite(x), wide, x)
        assert close(Moments.from_row(found(rows, "moments", fold)), Moments.of(expected))
        histogram = BitHistogram.from_row(found(rows, "histograms", fold))
        assert np.array_equal(histogram.counts, BitHistogram.of(x, bits=3).counts)
        mine, truth = (
            Extremes.from_row(found(rows, "extremes", fold)),
            Extremes.of(expected, step=0),
        )
        assert (mine.rows, mine.count, mine.min, mine.max) == (
            truth.rows,
            truth.count,
            truth.min,
            truth.max,
        )
        assert (mine.nan, mine.pos_inf, mine.neg_inf) == (
            truth.nan,
            truth.pos_inf,
            truth.neg_inf,
        )
        assert np.array_equal(abs(mine.top["value"]), abs(truth.top["value"]))
        assert mine.token_absmax.count == truth.token_absmax.count
    every = numpy_of(torch.cat([x for parts in seen.values() for x in parts]))
    whole = BitHistogram.from_row(found(rows, "histograms", -1))
    expected_whole = BitHistogram.of(every, bits=bits)
    assert np.array_equal(whole.codes, expected_whole.codes)
    assert np.array_equal(whole.counts, expected_whole.counts)
    for half in (0, 1):
        x = numpy_of(torch.cat([t for f, p in seen.items() if f % 2 == half for t in p]))
        mine_c, truth_c = (
            Channels.from_row(found(rows, "channels", -2 - half)),
            Channels.of(widen(x)),
        )
        assert np.array_equal(mine_c.count, truth_c.count)
        assert np.array_equal(mine_c.active, truth_c.active)
        limited = np.minimum(truth_c.absmax, 3.4028234663852886e38)
        assert np.allclose(mine_c.absmax, limited, rtol=1e-6)
        if not special:
            assert np.allclose(mine_c.mean, truth_c.mean, rtol=1e-9, atol=1e-12)
            assert np.allclose(mine_c.m2, truth_c.m2, rtol=1e-9)


@pytest.mark.parametrize("lanes", [1, FOLDS])
def test_experts_by_label_equal_experts_apart(lanes: int) -> None:
    experts, width = (0, 3, 7), 6
    together = Accumulator(width, experts, 3, CPU, lanes=lanes)
    apart = {e: Accumulator(width, (e,), 3, CPU) for e in experts}
    for fold in range(3):
        x = values(60, width, torch.float32, fold)
        x[5, 2] = math.nan
        labels = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(fold))
        together.add(x, Address(fold, fold), labels=labels)  # label 3: dropped
        for ordinal, expert in enumerate(experts):
            apart[expert].add(x[labels == ordinal], Address(fold, fold))
        if lanes == 1:
            together.spill()
    rows = together.rows()
    for expert, one in apart.items():
        truth = one.rows()
        for fold in range(3):
            a, b = (Moments.from_row(found(r, "moments", fold, expert)) for r in (rows, truth))
            assert close(a, b)
            e, f = (
                Extremes.from_row(found(r, "extremes", fold, expert)) for r in (rows, truth)
            )
            assert (e.rows, e.nan, e.min, e.max) == (f.rows, f.nan, f.min, f.max)
            assert e.top["value"][0] == f.top["value"][0]
        h, k = (
            BitHistogram.from_row(found(r, "histograms", -1, expert)) for r in (rows, truth)
        )
        assert np.array_equal(h.counts, k.counts)
        for half in (0, 1):
            c, d = (
                Channels.from_row(found(r, "channels", -2 - half, expert))
                for r in (rows, truth)
            )
            assert np.allclose(c.m2, d.m2)
            assert np.array_equal(c.absmax, d.absmax)


def test_all_rows_feed_the_extremes_and_sampled_rows_the_rest() -> None:
    x = values(100, 8, torch.float32, 1)
    x[77, 3] = 999.0
    sample = torch.arange(10)
    at = Address(
        5, 2, sequence=torch.arange(100) // 50, position=torch.arange(100) % 50, token=None
    )
    accumulator = Accumulator(8, (-1,), 7, CPU)
    accumulator.add(x, at, sample=sample)
    rows = accumulator.rows()
    line = found(rows, "moments", 2)
    assert (line["seen_rows"], line["sampled_rows"]) == (100, 10)
    assert close(Moments.from_row(line), Moments.of(x[:10].numpy()))
    top = Extremes.from_row(found(rows, "extremes", 2)).top[0]
    assert top.tolist() == (999.0, 5, 1, 27, -1, 3)


def test_state_starts_afresh_and_does_not_grow() -> None:
    accumulator = Accumulator(8, (-1,), 7, CPU)
    size = accumulator.bytes
    for window in range(3):
        accumulator.add(values(40, 8, torch.float32, window), Address(0, window))
        rows = accumulator.rows()
        assert [r["seen_rows"] for r in rows["moments"]] == [40]
        assert accumulator.bytes == size
    assert accumulator.rows() == {}


def test_offset_far_from_zero_keeps_the_variance() -> None:
    x = (values(500, 4, torch.float64, 0) * 1e-3 + 4096.0).float()
    accumulator = Accumulator(4, (-1,), 7, CPU)
    for part in x.split(50):
        accumulator.add(part, Address(0, 0))
    mine = Moments.from_row(found(accumulator.rows(), "moments", 0))
    assert mine.variance == pytest.approx(x.double().numpy().var(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("view", ["halves", "interleaved", "repeated", "transposed", "long"])
def test_any_view_of_a_tensor_reads_as_its_copy(dtype: torch.dtype, view: str) -> None:
    x = values(64 if view != "long" else 4000, 256, dtype, 1)
    x[5, 7], x[9, 200], x[9, 3] = math.inf, math.nan, -math.inf
    seen = {
        "halves": x[:, 128:], "interleaved": x[:, ::2], "repeated": x[7:8].expand(40, -1),
        "transposed": x.t(), "long": x,
    }[view]  # fmt: skip
    sample = torch.arange(0, seen.shape[0], 3)
    viewed, copied = (Accumulator(seen.shape[1], (-1,), 7, CPU) for _ in range(2))
    viewed.add(seen, Address(3, 4), sample=sample)
    for part in seen.split(17):  # in other calls, and only the part that reads all rows
        copied.add(part.contiguous(), Address(3, 4), sample=torch.arange(0))
    one, other = viewed.rows(), copied.rows()
    truth = numpy_of(seen.float())
    extremes = [Extremes.from_row(found(rows, "extremes", 4)) for rows in (one, other)]
    good = np.where(np.isfinite(truth), truth, np.nan)
    assert {(e.min, e.max) for e in extremes} == {(np.nanmin(good), np.nanmax(good))}
    assert {(e.nan, e.pos_inf, e.neg_inf) for e in extremes} == {
        (
            int(np.isnan(truth).sum()),
            int((truth == np.inf).sum()),
            int((truth == -np.inf).sum()),
        )
    }
    assert np.array_equal(*(abs(e.top["value"]) for e in extremes))
    assert extremes[0].token_absmax.equals(extremes[1].token_absmax)
    sampled = truth[sample.numpy()].astype(float)
    assert close(Moments.from_row(found(one, "moments", 4)), Moments.of(sampled))
    channels = Channels.from_row(found(one, "channels", -2))
    expected = Channels.of(sampled)
    assert np.array_equal(channels.count, expected.count)
    assert np.array_equal(channels.active, expected.active)
    assert np.allclose(channels.absmax, np.nanmax(abs(good), 0), rtol=1e-6)
    assert np.allclose(channels.mean, expected.mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_of_tokens_agree_with_numpy(dtype: torch.dtype) -> None:
    x = values(50, 33, dtype, 2)
    x[4], x[5, 3] = 0.0, math.nan
    accumulator = Accumulator(33, (-1,), 7, CPU)
    accumulator.add(x, Address(0, 0))
    mine = Extremes.from_row(found(accumulator.rows(), "extremes", 0))
    wide = np.ma.masked_invalid(numpy_of(x).astype(float))
    rms = np.sqrt((wide**2).mean(1)).filled(np.nan).astype(np.float32)
    std = wide.std(1).filled(np.nan)
    with np.errstate(invalid="ignore"):
        ratio = (abs(wide.mean(1).filled(np.nan)) / std).astype(np.float32)
    assert mine.token_rms.equals(BitHistogram.of(rms, 3))
    assert mine.token_ratio.equals(BitHistogram.of(ratio, 3))
    assert mine.token_absmax.equals(
        BitHistogram.of(abs(wide).max(1).filled(np.nan).astype(np.float32), 3)
    )


def test_rows_without_a_finite_value_count_and_have_no_size() -> None:
    x = torch.full((3, 5), math.nan)
    x[1] = math.inf
    accumulator = Accumulator(5, (-1,), 7, CPU)
    accumulator.add(x, Address(0, 0))
    rows = accumulator.rows()
    extremes = Extremes.from_row(found(rows, "extremes", 0))
    assert (extremes.nan, extremes.pos_inf, extremes.top.size) == (10, 5, 0)
    assert (extremes.min, extremes.max) == (math.inf, -math.inf)
    assert extremes.token_absmax.nan == 3
    assert Moments.from_row(found(rows, "moments", 0)).count == 0
    assert Channels.from_row(found(rows, "channels", -2)).absmax.tolist() == [0.0] * 5


def test_a_signalling_nan_is_no_infinity_at_any_resolution() -> None:
    x = torch.tensor([[0x7F81, 0x3F80]], dtype=torch.int32).to(torch.int16)
    accumulator = Accumulator(2, (-1,), 7, CPU)
    accumulator.add(x.view(torch.bfloat16), Address(0, 0))
    rows = accumulator.rows()
    for fold in (0, -1):
        histogram = BitHistogram.from_row(found(rows, "histograms", fold))
        assert (histogram.nan, histogram.pos_inf, histogram.count) == (1, 0, 1)


def test_without_numba_plain_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "COMPILED", False)
    accumulator = Accumulator(4, (-1,), 7, CPU)
    assert not accumulator.fused
    accumulator.add(values(8, 4, torch.float32, 0), Address(0, 0))
    assert found(accumulator.rows(), "moments", 0)["seen_rows"] == 8

import numpy as np
import pytest

from ffn_probe.errors import SketchError, UnknownName
from ffn_probe.sketches import Noise, QuantNoise

RNG = np.random.default_rng(17)


def test_totals_are_those_of_the_values() -> None:
    x = RNG.standard_normal((50, 8)).astype(np.float32)
    q = np.rint(x * 4) / 4
    total = QuantNoise.measured(x, {"grid:tensor": q})["grid:tensor"]
    wide = x.astype(np.float64)
    assert total.count == x.size
    assert total.signal == pytest.approx((wide**2).sum(), rel=1e-12)
    assert total.noise == pytest.approx(((q - wide) ** 2).sum(), rel=1e-12)
    assert total.zeroed == ((q == 0) & (x != 0)).sum() > 0


def test_zeros_that_stay_zero_are_not_zeroed() -> None:
    x = np.array([0.0, -0.0, 0.1, 3.0])
    assert QuantNoise.measured(x, {"k": np.rint(x)})["k"].zeroed == 1


def test_nonfinite_values_are_left_out() -> None:
    x = np.array([1.0, np.nan, np.inf, -np.inf, 2.0])
    total = QuantNoise.measured(x, {"k": np.array([1.5, 0.0, 9.0, -9.0, 2.0])})["k"]
    assert total == Noise(2, 5.0, 0.25, 0, 0)


def test_clipped_counts_are_the_quantizers() -> None:
    x = np.array([1.0, 9.0, -9.0])
    sketch = QuantNoise.measured(x, {"a": x, "b": x.clip(-2, 2)}, clipped={"b": 2})
    assert (sketch["a"].clipped, sketch["b"].clipped) == (0, 2)


def test_sqnr_is_in_decibels() -> None:
    sketch = QuantNoise({"a": Noise(4, 200.0, 2.0, 0, 0), "b": Noise(4, 1.0, 0.0, 0, 0)})
    assert sketch.sqnr_db("a") == pytest.approx(20.0)
    assert sketch.sqnr_db("b") == np.inf
    assert np.isnan(QuantNoise({"z": Noise(0, 0.0, 0.0, 0, 0)}).sqnr_db("z"))


def test_keys_on_one_side_only_are_kept() -> None:
    a = QuantNoise({"x": Noise(1, 1.0, 0.5, 1, 0), "y": Noise(1, 2.0, 0.0, 0, 1)})
    b = QuantNoise({"x": Noise(2, 3.0, 0.5, 0, 2), "z": Noise(1, 1.0, 1.0, 0, 0)})
    merged = a.merge(b)
    assert merged["x"] == Noise(3, 4.0, 1.0, 1, 2)
    assert (merged["y"], merged["z"]) == (a["y"], b["z"])


def test_counts_beyond_2_to_53_stay_exact() -> None:
    big = QuantNoise({"x": Noise(2**60 + 1, 1.0, 1.0, 0, 2**55 + 1)})
    total = QuantNoise.from_row(big.merge(big).to_row())["x"]
    assert (total.count, total.zeroed) == (2**61 + 2, 2**56 + 2)


def test_an_unlike_shape_is_refused() -> None:
    with pytest.raises(SketchError, match="int8:tensor has shape"):
        QuantNoise.measured(np.ones(3), {"int8:tensor": np.ones(4)})


def test_an_unknown_key_is_refused_with_a_guess() -> None:
    sketch = QuantNoise.measured(np.ones(3), {"int8:tensor": np.ones(3)})
    with pytest.raises(UnknownName, match="Did you mean 'int8:tensor'"):
        sketch.sqnr_db("int8:tenor")


def test_energies_beyond_float64_are_infinite_and_quiet() -> None:
    x = np.array([1e200, -1e200])
    sketch = QuantNoise.measured(x, {"k": np.zeros(2)})
    assert sketch["k"].signal == sketch["k"].noise == np.inf
    assert np.isnan(sketch.sqnr_db("k"))


def test_decibels_of_the_smallest_energies_do_not_vanish() -> None:
    sketch = QuantNoise(
        {"a": Noise(1, 5e-324, 5e-324, 0, 0), "b": Noise(1, 1e-320, 1e300, 0, 0)}
    )
    assert sketch.sqnr_db("a") == 0
    assert sketch.sqnr_db("b") == pytest.approx(-6200, rel=1e-3)

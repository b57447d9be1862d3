"""The noise predicted from counts, against quantizing the values themselves with torch."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import ffn_probe.formats
from ffn_probe.errors import SketchError
from ffn_probe.formats import fake_quantize
from ffn_probe.sketches import BitHistogram
from ffn_probe.sketches.expected_noise import magnitudes

RNG = np.random.default_rng(31)
SIZE = 200_000
CASTS = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "fp16": torch.float16}
CASTS |= {"bf16": torch.bfloat16}


@dataclass(frozen=True)
class Numbers:
    """A number format with the sizes that torch gives it."""

    name: str
    kind: str
    max: float
    min_normal: float = 1.0
    min_subnormal: float = 1.0
    mantissa_bits: int = 0


def of_torch(name: str, dtype: torch.dtype) -> Numbers:
    info = torch.finfo(dtype)
    normal = float(info.smallest_normal)
    return Numbers(
        name, "float", info.max, normal, normal * info.eps, round(-np.log2(info.eps))
    )


FORMATS = {name: of_torch(name, dtype) for name, dtype in CASTS.items()}
FORMATS |= {"int8": Numbers("int8", "int", 127.0), "mxfp4": Numbers("mxfp4", "block", 6.0)}


def swiglu() -> np.ndarray:
    gate, value = RNG.standard_normal((2, SIZE))
    return gate / (1 + np.exp(-gate)) * value


STREAMS = {
    "gaussian": RNG.standard_normal(SIZE),
    "heavy tail": RNG.standard_t(3, SIZE),
    "swiglu": swiglu(),
    "relu": np.maximum(RNG.standard_normal(SIZE), 0),
    "laplace": RNG.laplace(size=SIZE),
    "student 5": RNG.standard_t(5, SIZE),
    "half zeros": RNG.standard_normal(SIZE) * (RNG.random(SIZE) < 0.5),
    "huge": RNG.standard_normal(SIZE) * 1e30,
    "nearly nothing": swiglu() * 1e-30,
    "shifted": RNG.normal(20.0, 0.3, SIZE),
    "tiny": RNG.standard_normal(SIZE) * 1e-6,
}


def quantized(x: np.ndarray, name: str, scale: float) -> np.ndarray:
    """Round with torch alone: integers half to even, floats by casting."""
    scaled = torch.from_numpy(x.astype(np.float32)) / scale
    if name == "int8":
        rounded = scaled.round().clamp(-127, 127)
    else:
        limit = torch.finfo(CASTS[name]).max
        rounded = scaled.clamp(-limit, limit).to(CASTS[name]).float()
    return rounded.numpy().astype(np.float64) * scale


def measured_db(x: np.ndarray, name: str, scale: float) -> float:
    values = x.astype(np.float32).astype(np.float64)
    error = quantized(x, name, scale) - values
    return float(10 * np.log10((values**2).sum() / (error**2).sum()))


@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e5m2"])
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_noise_at_the_absmax_scale_is_within_a_tenth_of_a_decibel(
    stream: np.ndarray, name: str
) -> None:
    scale = float(np.abs(stream.astype(np.float32)).max() / FORMATS[name].max)
    sketch = BitHistogram.of(stream.astype(np.float32))
    assert sketch.sqnr_db(FORMATS[name], scale) == pytest.approx(
        measured_db(stream, name, scale), abs=0.1
    )


@pytest.mark.parametrize("scale", [0.004, 0.1, 1.0, 3.7])
@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e5m2"])
def test_noise_at_any_scale_also_where_values_clip(name: str, scale: float) -> None:
    x = STREAMS["gaussian"] * 1.7
    predicted = BitHistogram.of(x.astype(np.float32)).sqnr_db(FORMATS[name], scale)
    assert predicted == pytest.approx(measured_db(x, name, scale), abs=0.1)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_noise_of_the_wide_formats(name: str) -> None:
    x = STREAMS["gaussian"]
    predicted = BitHistogram.of(x.astype(np.float32)).sqnr_db(FORMATS[name])
    assert predicted == pytest.approx(measured_db(x, name, 1.0), abs=0.1)


@pytest.mark.parametrize("name", ["int8", "e4m3fn", "e5m2", "fp16"])
def test_noise_of_bfloat16_values_is_exact(name: str) -> None:
    x = torch.from_numpy(RNG.standard_t(2, 3000)).to(torch.bfloat16).double().numpy()
    error = quantized(x, name, 0.25) - x
    predicted = BitHistogram.of(x).noise(FORMATS[name], 0.25)
    assert predicted == pytest.approx(float((error**2).mean()), rel=1e-9)


def test_coarse_bins_predict_too() -> None:
    x = STREAMS["swiglu"]
    predicted = BitHistogram.of(x.astype(np.float32), 3).sqnr_db(FORMATS["int8"], 0.05)
    assert predicted == pytest.approx(measured_db(x, "int8", 0.05), abs=0.1)


@pytest.mark.parametrize("name", CASTS)
def test_the_numbers_of_a_format_are_torchs(name: str) -> None:
    wide = torch.int8 if CASTS[name].itemsize == 1 else torch.int16
    patterns = torch.arange(2 ** (8 * CASTS[name].itemsize - 1), dtype=torch.int32).to(wide)
    numbers = patterns.view(CASTS[name]).double()
    expected = numbers[numbers.isfinite()].unique().numpy()
    np.testing.assert_array_equal(magnitudes(FORMATS[name]), expected)


def test_values_that_are_numbers_of_the_format_have_no_noise() -> None:
    sketch = BitHistogram.of(np.array([0.0, 1.0, -1.5, 448.0, np.nan, np.inf]))
    assert sketch.noise(FORMATS["e4m3fn"]) == 0
    assert sketch.sqnr_db(FORMATS["e4m3fn"]) == np.inf


def test_nothing_has_no_noise_to_speak_of() -> None:
    assert np.isnan(BitHistogram.empty().noise(FORMATS["int8"]))
    assert np.isnan(BitHistogram.of(np.zeros(3)).sqnr_db(FORMATS["int8"]))


@pytest.mark.parametrize("name", ["int8", "int4", "e4m3fn", "e5m2", "fp16", "bf16"])
@pytest.mark.parametrize("stream", ["gaussian", "swiglu", "half zeros"])
def test_noise_is_that_of_the_projects_own_quantizer(stream: str, name: str) -> None:
    x = STREAMS[stream].astype(np.float32)[None]
    form = ffn_probe.formats.FORMATS[name]
    scale = 1.0 if form.cast else float(np.abs(x).max()) / form.max
    error = fake_quantize(x, name) - x.astype(np.float64)
    measured = 10 * np.log10((x.astype(np.float64) ** 2).sum() / (error**2).sum())
    assert BitHistogram.of(x).sqnr_db(form, scale) == pytest.approx(measured, abs=0.1)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(SketchError, match="positive"):
        BitHistogram.of(np.ones(2)).noise(FORMATS["int8"], scale)


def test_a_block_format_is_refused_by_name() -> None:
    with pytest.raises(SketchError, match="mxfp4 scales blocks"):
        BitHistogram.of(np.ones(2)).noise(FORMATS["mxfp4"])

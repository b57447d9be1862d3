"""Number formats against the public implementations: torch, torchao, compressed-tensors.

Bit for bit means the same float32 patterns. Three differences are by definition, and are
tested as such: integers have no -0 (compressed-tensors keeps one in its fake quantizer),
compressed-tensors' own integer scale is absmax / 127.5 for [-128, 127], and torchao
multiplies integers by 1 / scale instead of dividing.
"""

from collections.abc import Callable
from fractions import Fraction

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import scipy.linalg
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize as ct_dequantize
from compressed_tensors.quantization.lifecycle.forward import fake_quantize as ct_fake_quantize
from compressed_tensors.quantization.lifecycle.forward import quantize as ct_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchao.prototype.mx_formats import kernels as ao_kernels
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.mx_tensor import ScaleCalculationMode, to_dtype, to_mx
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization.quant_primitives import (
    MappingType,
    _choose_scale_float8,
    _dequantize_affine_float8,
    _fake_quantize_affine,
    _quantize_affine_float8,
    choose_qparams_affine,
)

from ffn_probe.errors import UnknownName
from ffn_probe.formats import (
    FORMATS,
    FormatError,
    fake_quantize,
    int8_sqnr_db,
    number_format,
    quantize,
    round_to,
)
from ffn_probe.sketches.expected_noise import magnitudes

RNG = np.random.default_rng(2024)
FLOAT_MAX = np.finfo(np.float32).max
TINY = np.finfo(np.float32).smallest_subnormal
ELEMENTS = [name for name, form in FORMATS.items() if form.kind != "block"]
BLOCKS = [name for name, form in FORMATS.items() if form.kind == "block"]
CASTS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
SMALL = {
    "e2m3": (ao_kernels.f32_to_f6_e2m3_unpacked, ao_kernels.f6_e2m3_unpacked_to_f32, 32),
    "e3m2": (ao_kernels.f32_to_f6_e3m2_unpacked, ao_kernels.f6_e3m2_unpacked_to_f32, 32),
    "e2m1": (ao_kernels.f32_to_f4_unpacked, ao_kernels.f4_unpacked_to_f32, 8),
}
MX = {
    "mxfp8": torch.float8_e4m3fn,
    "mxfp6": DTYPE_FP6_E2M3,
    "mxfp6_e3m2": DTYPE_FP6_E3M2,
    "mxfp4": torch.float4_e2m1fn_x2,
}
AXES = {"tensor": None, "token": 1, "channel": 0}
relaxed = settings(deadline=None, max_examples=60)


def gaussian(rows: int = 64, channels: int = 256) -> np.ndarray:
    return RNG.standard_normal((rows, channels)).astype(np.float32)


def swiglu(rows: int = 64, channels: int = 256) -> np.ndarray:
    gate, value = RNG.standard_normal((2, rows, channels))
    return (gate / (1 + np.exp(-gate)) * value).astype(np.float32)


STREAMS = {
    "gaussian": gaussian(),
    "log-normal": (gaussian() * np.exp(4 * gaussian())).astype(np.float32),
    "bfloat16": torch.from_numpy(gaussian()).bfloat16().float().numpy(),
    "rows of unlike size": (gaussian() * np.exp2(RNG.integers(-90, 90, (64, 1)))).astype("f4"),
    "zeros and ties": (RNG.integers(-6, 7, (64, 256)) / 4).astype(np.float32),
}
each_stream = pytest.mark.parametrize("x", STREAMS.values(), ids=STREAMS.keys())


def patterns(x: np.ndarray) -> np.ndarray:
    """Float32 patterns, every NaN the same."""
    narrow = np.ascontiguousarray(x, np.float32)
    return np.where(np.isnan(narrow), np.uint32(0x7FC00000), narrow.view(np.uint32))


def assert_same_bits(ours: np.ndarray, theirs: torch.Tensor) -> None:
    np.testing.assert_array_equal(patterns(ours), patterns(theirs.numpy()))


def around(numbers: np.ndarray) -> np.ndarray:
    """Every number, every tie between neighbours, and the float32s on both sides of each."""
    middle = (numbers[:-1] + numbers[1:]) / 2
    beyond = np.array(
        [numbers[-1] * x for x in (1.01, 1.0625, 1.25, 2.0) if x * numbers[-1] < FLOAT_MAX]
    )
    points = np.concatenate([numbers, middle, beyond]).astype(np.float32)
    near = np.concatenate(
        [points, np.nextafter(points, np.float32(0)), np.nextafter(points, FLOAT_MAX)]
    )
    special = np.array([np.nan, np.inf, 0.0, TINY, 2.0**-126, FLOAT_MAX], np.float32)
    whole = np.concatenate([near, special])
    return np.concatenate([whole, -whole])


def db(x: np.ndarray, y: np.ndarray) -> float:
    wide = x.astype(np.float64)
    return float(10 * np.log10((wide**2).sum() / ((y - wide) ** 2).sum()))


# ---- the numbers of each format ---------------------------------------------------------


@pytest.mark.parametrize("name", CASTS)
def test_limits_of_a_float_format_are_torchs(name: str) -> None:
    form, info = FORMATS[name], torch.finfo(CASTS[name])
    assert (form.max, form.min_normal) == (info.max, info.smallest_normal)
    assert form.min_subnormal == info.smallest_normal * info.eps
    assert 2.0**-form.mantissa_bits == info.eps


@pytest.mark.parametrize("name", SMALL)
def test_numbers_of_a_small_float_are_torchaos(name: str) -> None:
    _, decode, codes = SMALL[name]
    expected = decode(torch.arange(codes, dtype=torch.uint8)).double().numpy()
    np.testing.assert_array_equal(magnitudes(FORMATS[name]), expected)


@pytest.mark.parametrize(("name", "top"), [("int8", 127), ("int4", 7)])
def test_numbers_of_an_integer_format_are_symmetric(name: str, top: int) -> None:
    np.testing.assert_array_equal(magnitudes(FORMATS[name]), np.arange(top + 1))


@pytest.mark.parametrize(
    ("name", "element", "block"),
    [("mxfp8", "e4m3fn", 32), ("mxfp6", "e2m3", 32), ("mxfp6_e3m2", "e3m2", 32),
     ("mxfp4", "e2m1", 32), ("nvfp4", "e2m1", 16)],
)  # fmt: skip
def test_blocks_are_those_of_the_specifications(name: str, element: str, block: int) -> None:
    form = FORMATS[name]
    assert (form.element, form.block, form.max) == (element, block, FORMATS[element].max)
    assert form.granularities == ("block",)


def test_granularities_of_elementwise_formats() -> None:
    assert FORMATS["int8"].granularities == ("tensor", "token", "channel", "group", "none")
    assert FORMATS["bf16"].granularities == ("none",)


# ---- rounding ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASTS)
def test_rounding_is_a_clamped_torch_cast_at_every_number_and_tie(name: str) -> None:
    x = around(magnitudes(FORMATS[name]))
    top = FORMATS[name].max
    expected = torch.from_numpy(x).clamp(-top, top).to(CASTS[name]).float()
    assert_same_bits(round_to(x, name).astype(np.float32), expected)


@pytest.mark.parametrize("name", SMALL)
def test_rounding_to_a_small_float_is_torchaos_at_every_number_and_tie(name: str) -> None:
    encode, decode, _ = SMALL[name]
    x = around(magnitudes(FORMATS[name]))
    x = x[~np.isnan(x)]  # these formats have no NaN
    top = FORMATS[name].max
    expected = decode(encode(torch.from_numpy(x).clamp(-top, top)))
    assert_same_bits(round_to(x, name).astype(np.float32), expected)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rounding_to_integers_is_torchs(name: str) -> None:
    x = around(magnitudes(FORMATS[name]))
    top = FORMATS[name].max
    expected = torch.from_numpy(x).round().clamp(-top, top) + 0.0
    assert_same_bits(round_to(x, name).astype(np.float32), expected)


@pytest.mark.parametrize("name", ELEMENTS)
@given(x=npst.arrays(np.float32, (4, 6), elements=st.floats(width=32)))
@relaxed
def test_rounding_again_changes_nothing(name: str, x: np.ndarray) -> None:
    once = round_to(x, name)
    np.testing.assert_array_equal(round_to(once, name), once)
    assert np.nanmax(np.abs(once), initial=0) <= FORMATS[name].max
    np.testing.assert_array_equal(np.isnan(once), np.isnan(x))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
@given(x=npst.arrays(np.float32, (3, 5), elements=st.floats(width=32)))
@relaxed
def test_wide_formats_are_clamped_casts(name: str, x: np.ndarray) -> None:
    top = FORMATS[name].max
    expected = torch.from_numpy(x).clamp(-top, top).to(CASTS[name]).float()
    assert_same_bits(fake_quantize(x, name), expected)


# ---- one scale a tensor, token, channel or group ----------------------------------------


def top_of(x: np.ndarray, granularity: str) -> torch.Tensor:
    """The largest |x| of every scope, shaped as compressed-tensors wants it."""
    size = torch.from_numpy(x).abs()
    if granularity == "group":
        return size.unflatten(1, (-1, 128)).amax(-1)
    axis = AXES[granularity]
    return size.amax(axis, keepdim=True) if axis is not None else size.amax()


def ct_args(name: str, granularity: str) -> QuantizationArgs:
    kind, bits = {"int8": ("int", 8), "int4": ("int", 4), "e4m3fn": ("float", 8)}[name]
    strategy = "group" if granularity == "group" else "tensor"
    size = 128 if granularity == "group" else None
    return QuantizationArgs(num_bits=bits, type=kind, strategy=strategy, group_size=size)


@each_stream
@pytest.mark.parametrize("granularity", ["tensor", "token", "channel", "group"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integers_are_compressed_tensors_at_the_same_scale(
    name: str, granularity: str, x: np.ndarray
) -> None:
    scale = top_of(x, granularity) / FORMATS[name].max
    scale = torch.where(scale > 0, scale, 1.0)
    args, zero = ct_args(name, granularity), torch.zeros_like(scale)
    whole = ct_quantize(torch.from_numpy(x), scale, zero, args, dtype=torch.int8)
    if granularity == "group":
        expected = (whole.unflatten(1, (-1, 128)) * scale[..., None]).flatten(1)
    else:
        expected = ct_dequantize(whole, scale, zero, args) if scale.ndim < 2 else whole * scale
    assert_same_bits(fake_quantize(x, name, granularity=granularity), expected)


@each_stream
@pytest.mark.parametrize("granularity", ["tensor", "token", "channel", "group"])
def test_e4m3_is_compressed_tensors_with_its_own_scale(granularity: str, x: np.ndarray) -> None:
    top = top_of(x, granularity)
    args = ct_args("e4m3fn", granularity)
    scale, _ = calculate_qparams(-top, top, args)
    scale = torch.where(top > 0, scale.reshape(top.shape), 1.0)
    expected = ct_fake_quantize(torch.from_numpy(x), scale, None, args)
    assert_same_bits(fake_quantize(x, "e4m3fn", granularity=granularity), expected)


def test_compressed_tensors_own_integer_scale_spans_127_and_a_half() -> None:
    x = STREAMS["gaussian"]
    top = top_of(x, "tensor")
    args = ct_args("int8", "tensor")
    scale, zero = calculate_qparams(-top, top, args)
    assert float(scale) == pytest.approx(float(top) / 127.5, rel=1e-6)
    theirs = db(x, ct_fake_quantize(torch.from_numpy(x), scale, zero, args).numpy())
    assert theirs == pytest.approx(db(x, fake_quantize(x, "int8")), abs=0.1)


def ao_blocks(x: np.ndarray, granularity: str) -> list[int]:
    rows, channels = x.shape
    sizes = {"tensor": x.shape, "token": (1, channels), "channel": (rows, 1), "group": (1, 128)}
    return list(sizes[granularity])


@each_stream
@pytest.mark.parametrize("granularity", ["tensor", "token", "channel"])
@pytest.mark.parametrize("name", ["e4m3fn", "e5m2"])
def test_float8_is_torchaos_with_its_own_scale(
    name: str, granularity: str, x: np.ndarray
) -> None:
    tensor, dtype = torch.from_numpy(x), CASTS[name]
    scale = _choose_scale_float8(tensor, ao_blocks(x, granularity), dtype)
    stored = _quantize_affine_float8(tensor, scale, dtype)
    expected = _dequantize_affine_float8(stored, scale)
    assert_same_bits(fake_quantize(x, name, granularity=granularity), expected)


@pytest.mark.parametrize("granularity", ["tensor", "token", "channel", "group"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integers_are_torchaos_where_its_reciprocal_is_exact(
    name: str, granularity: str
) -> None:
    """With absmax = max * 2^k the scale is 2^k, and x * (1 / scale) is x / scale."""
    top = int(FORMATS[name].max)
    x = RNG.uniform(-top, top, (64, 256)).astype(np.float32)
    x[::2, ::2] = np.round(x[::2, ::2] * 2) / 2  # ties
    x[range(64), range(64)] = x[range(64), range(64, 128)] = top
    x[0], x[:, 0], x[:, 128] = np.where(RNG.random(256) < 0.5, top, -top), top, -top
    x = np.ldexp(x, -5)
    expected = ao_fake_quantized(x, name, granularity)
    assert_same_bits(fake_quantize(x, name, granularity=granularity), expected)


def ao_fake_quantized(x: np.ndarray, name: str, granularity: str) -> torch.Tensor:
    top, block = int(FORMATS[name].max), ao_blocks(x, granularity)
    tensor = torch.from_numpy(x)
    scale, zero = choose_qparams_affine(
        tensor, MappingType.SYMMETRIC, block, torch.int8, -top, top, eps=1e-30
    )
    return _fake_quantize_affine(tensor, block, scale, zero, torch.int8, -top, top)


@pytest.mark.parametrize("granularity", ["tensor", "token", "channel", "group"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_torchaos_reciprocal_moves_only_values_next_to_a_tie(
    name: str, granularity: str
) -> None:
    x = np.concatenate([gaussian(2000), swiglu(2000)])
    ours = fake_quantize(x, name, granularity=granularity)
    theirs = ao_fake_quantized(x, name, granularity).numpy()
    moved = ours != theirs
    assert moved.mean() < 1e-4
    wide = x[moved].astype(np.float64)
    np.testing.assert_allclose(
        np.abs(ours[moved] - wide), np.abs(theirs[moved] - wide), rtol=1e-4
    )


def test_a_given_scale_broadcasts_and_clamps() -> None:
    x = np.array([[1.0, -3.0, 400.0], [0.2, 5.0, -400.0]])
    given_scale = np.array([[1.0], [0.5]])
    expected = [[1.0, -3.0, 127.0], [0.0, 5.0, -63.5]]
    result = quantize(x, "int8", scale=given_scale)
    np.testing.assert_array_equal(result.values, expected)
    np.testing.assert_array_equal(result.clipped, [[False, False, True], [False, False, True]])


# ---- blocks -----------------------------------------------------------------------------


def ao_mx(x: np.ndarray, name: str, rounding: str) -> torch.Tensor:
    mode = {"floor": ScaleCalculationMode.FLOOR, "ceil": ScaleCalculationMode.RCEIL}[rounding]
    scale, stored = to_mx(torch.from_numpy(x), MX[name], 32, mode)
    return to_dtype(stored, scale, MX[name], 32, torch.float32)


@each_stream
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("name", MX)
def test_mx_is_torchaos(name: str, rounding: str, x: np.ndarray) -> None:
    expected = ao_mx(x, name, rounding)
    assert_same_bits(fake_quantize(x, name, rounding=rounding), expected)


block_values = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([0.0, -0.0, TINY, -TINY, 2.0**-126, 1.0, 1.75, 448.0, 464.0, 6.0, 28.0]),
).map(np.float32)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("name", MX)
@given(x=npst.arrays(np.float32, (2, 32), elements=block_values))
@relaxed
def test_mx_is_torchaos_on_awkward_blocks(name: str, rounding: str, x: np.ndarray) -> None:
    top = np.abs(x).max(axis=1)
    assume(np.all((top == 0) | (top > 2.0**-100)))  # below, torchao scales by 2^-126, 2^-127
    ratio = top / np.float32(FORMATS[name].max)
    with np.errstate(divide="ignore"):
        power = np.log2(ratio)  # torchao takes the ceiling of this float32
    exact = np.frexp(ratio)[0] == 0.5
    assume(np.all((power != np.rint(power)) | exact | (top == 0)))
    expected = ao_mx(x, name, rounding)
    assert_same_bits(fake_quantize(x, name, rounding=rounding), expected)


def exact_block_scale(top: np.float32, name: str, rounding: str) -> Fraction:
    """The scale in whole numbers: 2^(floor(log2 top) - emax), or the next above top / max."""
    size, limit = Fraction(float(top)), Fraction(FORMATS[name].max)
    power = Fraction(1, 2**127)
    if rounding == "floor":
        emax = {"mxfp8": 8, "mxfp6": 2, "mxfp6_e3m2": 4, "mxfp4": 2}[name]
        while power * 2 * 2**emax <= size and power < 2**127:
            power *= 2
    else:
        while power * limit < size and power < 2**127:
            power *= 2
    return power


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("name", MX)
def test_block_scales_are_exact_next_to_powers_of_two(name: str, rounding: str) -> None:
    limit = np.float32(FORMATS[name].max)
    for exponent in (-130, -126, -74, -8, 0, 5, 60, 117):
        for base in (np.float32(1), limit):
            with np.errstate(over="ignore"):
                point = np.ldexp(base, exponent)
            if not np.isfinite(point):
                continue
            for top in (
                np.nextafter(point, np.float32(0)),
                point,
                np.nextafter(point, FLOAT_MAX),
            ):
                x = np.zeros((1, 32), np.float32)
                x[0, :3] = top, top * np.float32(0.37), -top * np.float32(0.6)
                scale = float(exact_block_scale(top, name, rounding))
                element = FORMATS[name].element
                expected = round_to(x / scale, element) * scale
                result = fake_quantize(x, name, rounding=rounding)
                np.testing.assert_array_equal(result, expected.astype(np.float32))


def ao_nvfp4(x: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(x)
    scale = per_tensor_amax_to_scale(tensor.abs().max())
    return NVFP4Tensor.to_nvfp4(tensor, per_tensor_scale=scale).dequantize()


@each_stream
def test_nvfp4_is_torchaos(x: np.ndarray) -> None:
    assert_same_bits(fake_quantize(x, "nvfp4"), ao_nvfp4(x))


@given(x=npst.arrays(np.float32, (3, 32), elements=block_values))
@relaxed
def test_nvfp4_is_torchaos_on_awkward_blocks(x: np.ndarray) -> None:
    assume(np.abs(x).max() > 2.0**-100)  # below, torchao divides by zero
    assert_same_bits(fake_quantize(x, "nvfp4"), ao_nvfp4(x))


def test_nvfp4_is_near_compressed_tensors_which_divides() -> None:
    x = np.concatenate([STREAMS["gaussian"], swiglu()])
    tensor = torch.from_numpy(x)
    top = tensor.unflatten(1, (-1, 16)).abs().amax(-1)
    whole = 448.0 * 6.0 / tensor.abs().max()
    args = QuantizationArgs(
        num_bits=4, type="float", strategy="tensor_group", group_size=16,
        scale_dtype=torch.float8_e4m3fn, zp_dtype=torch.float8_e4m3fn,
    )  # fmt: skip
    scale, _ = calculate_qparams(-top, top, args, global_scale=whole)
    theirs = ct_fake_quantize(tensor, scale, None, args, global_scale=whole).numpy()
    ours = fake_quantize(x, "nvfp4")
    assert (np.abs(ours - theirs) > 1e-6 * np.abs(ours)).mean() < 1e-3


# ---- what is not a number, and what is hardly one ---------------------------------------


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 1.0], np.float32)
every_use = pytest.mark.parametrize(
    ("name", "granularity"),
    [(name, scope) for name, form in FORMATS.items() for scope in form.granularities],
)


@every_use
def test_nan_stays_in_place_and_infinity_saturates(name: str, granularity: str) -> None:
    x = gaussian(2, 256)
    x[0, :8] = SPECIAL
    result = fake_quantize(x, name, granularity=granularity)
    finite = np.where(np.isfinite(x), x, 0.0).astype(np.float32)
    without = fake_quantize(finite, name, granularity=granularity)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(x))
    np.testing.assert_array_equal(result[np.isfinite(x)], without[np.isfinite(x)])
    assert np.isfinite(result[0, 1:3]).all()
    scope = without[:, 1:2] if granularity == "channel" else without[:1, :16]
    assert result[0, 1] >= np.abs(scope).max() > 0
    assert result[0, 2] < 0


@every_use
def test_a_scope_of_zeros_stays_zeros(name: str, granularity: str) -> None:
    x = np.zeros((2, 128), np.float32)
    x[0, :64] = -0.0
    result = quantize(x, name, granularity=granularity)
    assert not result.values.any()
    assert not result.clipped.any()
    keeps_sign = FORMATS[name].kind != "int"
    assert np.signbit(result.values[0, :64]).all() == keeps_sign


@every_use
def test_infinity_among_zeros_is_about_one(name: str, granularity: str) -> None:
    x = np.zeros((2, 128), np.float32)
    x[0, 5] = -np.inf
    result = fake_quantize(x, name, granularity=granularity)
    assert np.count_nonzero(result) == 1
    if granularity != "none":
        assert -1 >= result[0, 5] > -2


def test_nvfp4_of_values_whose_scale_has_no_reciprocal() -> None:
    x = (gaussian(4, 64) * np.float32(1e-37)).astype(np.float32)
    assert db(x, fake_quantize(x, "nvfp4")) > 18


@every_use
@pytest.mark.parametrize("size", [float(FLOAT_MAX), float(TINY), 1e-38, 1e-43])
def test_the_ends_of_float32_give_finite_numbers(
    name: str, granularity: str, size: float
) -> None:
    x = (np.clip(gaussian(3, 128), -3, 3) / 3 * size).astype(np.float32)
    x[1, 1], x[2, 2] = size, -size
    result = fake_quantize(x, name, granularity=granularity)
    assert np.isfinite(result).all()
    if granularity != "none" and size > 1e-36:
        assert db(x, result) > (10 if FORMATS[name].max < 10 else 20)


@every_use
def test_no_rows_give_no_rows(name: str, granularity: str) -> None:
    result = quantize(np.zeros((0, 128)), name, granularity=granularity)
    assert result.values.shape == result.clipped.shape == (0, 128)


@every_use
def test_the_values_given_are_not_changed(name: str, granularity: str) -> None:
    x = gaussian(2, 128)
    before = x.copy()
    fake_quantize(x, name, granularity=granularity)
    np.testing.assert_array_equal(x, before)


@every_use
@given(shift=st.integers(-40, 40))
@settings(deadline=None, max_examples=10)
def test_a_scale_makes_powers_of_two_irrelevant(
    name: str, granularity: str, shift: int
) -> None:
    x = STREAMS["log-normal"][:4]
    shifted = fake_quantize(np.ldexp(x, shift), name, granularity=granularity)
    if granularity != "none":
        expected = np.ldexp(fake_quantize(x, name, granularity=granularity), shift)
        np.testing.assert_array_equal(shifted, expected)


def test_values_of_other_types_are_taken_as_float32() -> None:
    x = RNG.integers(-300, 300, (4, 64))
    np.testing.assert_array_equal(
        fake_quantize(x, "int8"), fake_quantize(x.astype(np.float32), "int8")
    )
    half = gaussian(2, 64).astype(np.float16)
    np.testing.assert_array_equal(fake_quantize(half, "fp16"), half.astype(np.float32))
    assert fake_quantize(np.array([[1e300, -1e300]]), "fp16").tolist() == [[65504.0, -65504.0]]


# ---- clipping ---------------------------------------------------------------------------


def test_nothing_is_clipped_at_a_measured_scale() -> None:
    x = np.concatenate([gaussian(64), swiglu(64)])
    for name in ("int8", "int4", "e4m3fn", "e5m2"):
        for granularity in ("tensor", "token", "channel", "group"):
            assert not quantize(x, name, granularity=granularity).clipped.any()


def test_clipped_values_are_those_that_round_beyond_the_largest() -> None:
    x = np.array([[127.4, 127.6, -128.0, 1e9, np.inf, np.nan, 126.0]])
    clipped = quantize(x, "int8", granularity="none").clipped
    assert clipped.tolist() == [[False, True, True, True, False, False, False]]
    x = np.array([[448.0, 463.9, 464.1, 480.0]])
    clipped = quantize(x, "e4m3fn", granularity="none").clipped
    assert clipped.tolist() == [[False, False, True, True]]


def test_mx_clips_by_the_floor_rule_and_not_by_the_ceiling() -> None:
    x = np.concatenate([gaussian(64), swiglu(64)])
    assert quantize(x, "mxfp8").clipped.any()
    assert not quantize(x, "mxfp8", rounding="ceil").clipped.any()


# ---- refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (lambda: number_format("int9"), "no format 'int9'. Did you mean 'int8'"),
        (lambda: fake_quantize(gaussian(), "fp9"), "no format 'fp9'"),
        (
            lambda: fake_quantize(gaussian(), "int8", granularity="tokens"),
            "Did you mean 'token'",
        ),
        (lambda: fake_quantize(gaussian(), "mxfp4", rounding="up"), "no rounding 'up'"),
    ],
)
def test_unknown_names_are_refused_with_a_guess(
    refused: Callable[[], object], words: str
) -> None:
    with pytest.raises(UnknownName, match=words):
        refused()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mxfp4", {"granularity": "token"}, "mxfp4 has no scale by token; choose from block"),
        ("int8", {"granularity": "block"}, "int8 has no scale by block; choose from tensor"),
        ("bf16", {"granularity": "token"}, "bf16 has no scale by token; choose from none"),
        ("mxfp4", {"scale": 1.0}, "measures its own scales"),
        ("int4", {"granularity": "group", "scale": 1.0}, "measures its own scales"),
        ("int8", {"scale": 0.0}, "positive float32 number, not 0.0"),
        ("int8", {"scale": np.array([[1.0], [-2.0]])}, "not -2.0"),
        ("int8", {"scale": np.nan}, "not nan"),
        ("int8", {"scale": 1e-60}, "not 1e-60"),
        (
            "int4",
            {"granularity": "group", "group": 100},
            "64 channels are no multiple of the group 100",
        ),
        ("int4", {"granularity": "group", "group": 0}, "the group 0"),
    ],
)
def test_what_does_not_go_together_is_refused(
    name: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(FormatError, match=words):
        fake_quantize(gaussian(2, 64), name, **options)  # type: ignore[arg-type]


def test_channels_that_are_no_multiple_of_the_block_are_refused() -> None:
    with pytest.raises(FormatError, match="40 channels are no multiple of mxfp8's block 32"):
        fake_quantize(np.ones((2, 40)), "mxfp8")
    with pytest.raises(FormatError, match="block format"):
        round_to(np.ones(3), "nvfp4")


# ---- what a format costs: published laws ------------------------------------------------

GAUSSIAN, SWIGLU = gaussian(512, 4096), swiglu(512, 4096)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bf16", {}, 55.6), ("fp16", {}, 73.6), ("e4m3fn", {}, 31.5), ("e5m2", {}, 25.6),
        ("int8", {"granularity": "token"}, 41.2), ("int8", {"granularity": "channel"}, 42.6),
        ("mxfp8", {}, 30.6), ("mxfp8", {"rounding": "ceil"}, 31.5), ("mxfp6", {}, 30.9),
        ("mxfp4", {}, 18.8), ("nvfp4", {}, 20.4), ("int4", {"granularity": "group"}, 18.6),
    ],
)  # fmt: skip
def test_decibels_of_a_gaussian(name: str, options: dict[str, str], expected: float) -> None:
    result = fake_quantize(GAUSSIAN, name, **options)  # type: ignore[arg-type]
    assert db(GAUSSIAN, result) == pytest.approx(expected, abs=0.11)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("int8", {"granularity": "token"}, 32.1), ("int4", {"granularity": "group"}, 13.6),
        ("e4m3fn", {}, 31.5), ("e5m2", {}, 25.6), ("mxfp8", {}, 29.3),
        ("mxfp8", {"rounding": "ceil"}, 31.5), ("mxfp6", {}, 29.0), ("mxfp4", {}, 16.7),
        ("nvfp4", {}, 20.9),
    ],
)  # fmt: skip
def test_decibels_of_a_swiglu_hidden(
    name: str, options: dict[str, str], expected: float
) -> None:
    result = fake_quantize(SWIGLU, name, **options)  # type: ignore[arg-type]
    # The tail of 2 million products moves the decibels by up to 0.07 (1 sd) with the seed.
    assert db(SWIGLU, result) == pytest.approx(expected, abs=0.2)


def test_a_swiglu_hidden_loses_nine_decibels_of_int8_against_its_norm_output() -> None:
    root = np.sqrt((GAUSSIAN.astype(np.float64) ** 2).mean(axis=1, keepdims=True))
    normed = (GAUSSIAN / root).astype(np.float32)
    before = db(normed, fake_quantize(normed, "int8", granularity="token"))
    after = db(SWIGLU, fake_quantize(SWIGLU, "int8", granularity="token"))
    assert before - after == pytest.approx(9.1, abs=0.15)


@pytest.mark.parametrize("freedom", [3, 5, 100])
def test_int8_follows_the_crest(freedom: int) -> None:
    x = RNG.standard_t(freedom, (256, 1024)).astype(np.float32)
    crest = float(np.abs(x).max() / np.sqrt((x.astype(np.float64) ** 2).mean()))
    assert int8_sqnr_db(crest) == pytest.approx(52.87 - 20 * np.log10(crest), abs=0.01)
    if crest < 40:  # beyond, most values are zeroed and the noise is not uniform
        assert db(x, fake_quantize(x, "int8")) == pytest.approx(int8_sqnr_db(crest), abs=0.1)


@pytest.mark.parametrize(("crest", "better"), [(10.5, "int8"), (13.0, "e4m3fn")])
def test_int8_beats_e4m3_below_a_crest_of_11_7(crest: float, better: str) -> None:
    x = GAUSSIAN[:64].copy()
    x[0, 0] = crest
    measured = {name: db(x, fake_quantize(x, name)) for name in ("int8", "e4m3fn")}
    assert max(measured, key=measured.__getitem__) == better
    assert int8_sqnr_db(11.7) == pytest.approx(31.5, abs=0.05)


def test_one_massive_value_zeroes_the_other_tokens_in_int8_and_not_in_e4m3() -> None:
    x = SWIGLU.copy()
    x[0, 0] = 1000 * np.median(np.abs(x))
    others, small = x[1:], {n: fake_quantize(x, n)[1:] for n in ("int8", "e4m3fn")}
    assert db(others, small["int8"]) == pytest.approx(7.6, abs=0.2)
    assert (small["int8"] == 0).mean() == pytest.approx(0.865, abs=0.005)
    assert db(others, small["e4m3fn"]) == pytest.approx(31.5, abs=0.1)


def test_a_scale_rounded_up_after_quantizing_inflates_by_1_over_ln_2() -> None:
    """A bug seen in the wild: quantize by the true scale, multiply by its next power of two.

    With block sizes spread evenly in the logarithm the factor is 2^U: 1.4427 in the mean,
    and its noise is E[(2^U - 1)^2] of the signal, 5.55 dB.
    """
    size = np.exp2(RNG.random((GAUSSIAN.size // 32, 1)))
    rows = GAUSSIAN.reshape(-1, 32) * size
    scale = np.abs(rows).max(axis=1, keepdims=True) / 448.0
    stored = np.exp2(np.ceil(np.log2(scale)))
    assert (stored / scale).mean() == pytest.approx(1 / np.log(2), abs=0.01)
    wrong = round_to(rows / scale, "e4m3fn") * stored
    expected = -10 * np.log10(1.5 / np.log(2) - 2 / np.log(2) + 1)
    assert db(rows / size, wrong / size) == pytest.approx(expected, abs=0.1)


def test_a_hadamard_rotation_hurts_where_values_have_a_mean() -> None:
    """The DC of ReLU^2 lands in one channel, unless signs are random."""
    x = np.maximum(GAUSSIAN, 0) ** 2
    turn = scipy.linalg.hadamard(4096).astype(np.float32) / 64
    signs = np.where(RNG.random(4096) < 0.5, -1, 1).astype(np.float32)
    plain, turned, signed = (
        db(y, fake_quantize(y, "int8", granularity="token"))
        for y in (x, x[:128] @ turn, (x[:128] * signs) @ turn)
    )
    assert plain == pytest.approx(35.5, abs=0.3)
    assert turned == pytest.approx(24.5, abs=0.3)
    assert signed == pytest.approx(41.3, abs=0.3)


def test_a_stale_scale_clips() -> None:
    """Four times an old absmax; the tail decides, so 15.7 to 17.5 dB by the seed."""
    x = 4 * SWIGLU
    scale = float(np.abs(SWIGLU).max() / 448)
    result = quantize(x, "e4m3fn", scale=scale)
    assert result.clipped.mean() == pytest.approx(0.0046, abs=0.0015)
    assert db(x, result.values) == pytest.approx(16.5, abs=1.2)
    np.testing.assert_array_equal(result.clipped, np.abs(x) / np.float32(scale) > 464)


@pytest.mark.parametrize(
    ("ratio", "name", "expected"),
    [(10, "int8", 13.3), (10, "e4m3fn", 31.5), (4136, "e4m3fn", 25.1)],
)
def test_one_spiked_token_costs_the_others(ratio: float, name: str, expected: float) -> None:
    x = SWIGLU.copy()
    x[0, 0] = ratio * np.median(np.abs(x).max(axis=1))
    assert db(x[1:], fake_quantize(x, name)[1:]) == pytest.approx(expected, abs=0.3)


def test_the_noise_of_weights_and_activations_adds() -> None:
    x, w = GAUSSIAN[:256, :1024], GAUSSIAN[256:512, :1024]
    xq = fake_quantize(x, "int8", granularity="token").astype(np.float64)
    wq = fake_quantize(w, "int4", granularity="group").astype(np.float64)
    y = x.astype(np.float64) @ w.T
    alone = [db(y, xq @ w.T), db(y, x @ wq.T)]
    together = -10 * np.log10(sum(10 ** (-loss / 10) for loss in alone))
    assert db(y, xq @ wq.T) == pytest.approx(together, abs=0.05)

"""What each torch function does to the axes of its input, as tables of names.

A function that stands in none of the tables mixes positions as far as discovery knows:
walking through it would be a guess, so a walk stops there.
"""

PROJECTIONS = frozenset(
    {
        "linear", "matmul", "mm", "bmm", "baddbmm", "addmm", "addbmm", "einsum",
        "tensordot", "_grouped_mm", "grouped_mm", "grouped_mm_fallback", "_grouped_linear",
        "conv1d", "conv2d", "mv", "dot", "inner", "scaled_mm", "_scaled_mm",
        "_scaled_grouped_mm", "_weight_int8pack_mm",
    }
)  # fmt: skip
"""Functions that multiply an activation with a weight."""

VIEWS = frozenset(
    {
        "view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "permute",
        "t", "T", "mT", "H", "mH", "contiguous", "clone", "chunk", "split",
        "split_with_sizes", "tensor_split", "narrow", "select", "unbind", "squeeze",
        "unsqueeze", "expand", "expand_as", "view_as", "reshape_as", "movedim", "moveaxis",
        "swapaxes", "swapdims", "detach", "alias", "item_of", "repeat", "tile",
        "broadcast_to", "unsafe_chunk", "unsafe_split", "hsplit", "vsplit", "dsplit",
        "view_copy", "data", "ravel", "adjoint", "requires_grad_", "__iter__", "atleast_2d",
        "atleast_3d", "unsafe_split_with_sizes", "repeat_interleave",
    }
)  # fmt: skip
"""Functions that only move values about, each row by itself."""

CASTS = frozenset(
    {
        "to", "float", "half", "bfloat16", "double", "type", "type_as", "cpu", "cuda",
        "npu", "xpu", "int", "long", "bool", "_to_copy", "to_dense", "dequantize",
    }
)  # fmt: skip
"""Functions that change the dtype or the device."""

IDENTITIES = frozenset(
    {
        "dropout", "dropout_", "alpha_dropout", "feature_dropout", "dropout1d", "dropout2d",
    }
)  # fmt: skip
"""Functions that do nothing in evaluation mode."""

POINTWISE = frozenset(
    {
        "add", "sub", "mul", "div", "neg", "pow", "square", "sqrt", "rsqrt", "exp", "exp2",
        "expm1", "tanh", "sigmoid", "erf", "erfc", "relu", "relu6", "silu", "gelu",
        "leaky_relu", "elu", "selu", "celu", "prelu", "rrelu", "mish", "hardswish",
        "hardsigmoid", "hardtanh", "softplus", "softsign", "tanhshrink", "softshrink",
        "hardshrink", "threshold", "logsigmoid", "clamp", "clamp_min", "clamp_max", "clip",
        "minimum", "maximum", "where", "abs", "absolute", "sign", "sgn", "reciprocal",
        "masked_fill", "addcmul", "addcdiv", "log", "log1p", "log2", "log10", "logaddexp",
        "sin", "cos", "sinc", "floor", "ceil", "round", "trunc", "lerp", "nan_to_num", "gt",
        "lt", "ge", "le", "eq", "ne", "greater", "less", "logical_and", "logical_or",
        "logical_not", "true_divide", "divide", "multiply", "subtract", "negative",
        "positive", "xlogy", "rsub", "special_expit", "expit", "special_erf", "frac",
        "greater_equal", "less_equal", "not_equal", "__and__", "__or__", "__invert__",
        "bitwise_not", "erfinv", "fake_quantize_per_tensor_affine", "heaviside", "logit",
        "atan", "arctan", "float_power", "fmax", "fmin", "glu", "batch_norm",
    }
)  # fmt: skip
"""Functions of each element by itself (a batch norm is one in evaluation mode)."""

ROWWISE = frozenset(
    {
        "mean", "std", "var", "std_mean", "var_mean", "norm", "vector_norm",
        "linalg_vector_norm", "layer_norm", "rms_norm", "normalize", "native_layer_norm",
        "amax", "amin", "max", "min", "group_norm", "aminmax", "kthvalue", "topk", "sort",
        "_fused_rms_norm", "native_group_norm",
    }
)  # fmt: skip
"""Functions of each row by itself (statistics over the last axis, norms)."""

SUMS = frozenset(
    {
        "sum", "nansum",
    }
)  # fmt: skip
"""Sums over an axis: fine on the way out of a block, not inside it."""

GATHERS = frozenset(
    {
        "index_select", "gather", "masked_select", "take", "take_along_dim", "index",
        "__getitem__",
    }
)  # fmt: skip
"""Functions that pick rows by data."""

SCATTERS = frozenset(
    {
        "index_add", "index_add_", "scatter", "scatter_add", "scatter_add_",
        "scatter_reduce", "scatter_reduce_", "index_copy", "index_copy_", "__setitem__",
        "index_put", "index_put_", "scatter_",
    }
)  # fmt: skip
"""Functions that put rows back by data."""

ADDS = frozenset(
    {
        "add", "index_add", "index_add_", "scatter_add", "scatter_add_", "addcmul", "lerp",
    }
)  # fmt: skip
"""Functions in which a residual stream receives a block's output."""


INPLACE_DUNDERS = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div",
    "__ipow__": "pow", "__rsub__": "rsub", "__rpow__": "rpow", "__rtruediv__": "reciprocal_of",
    "__rdiv__": "reciprocal_of", "__rmatmul__": "matmul", "__matmul__": "matmul",
    "__radd__": "add", "__add__": "add", "__mul__": "mul", "__rmul__": "mul", "__sub__": "sub",
    "__truediv__": "div", "__pow__": "pow", "__neg__": "neg", "__abs__": "abs",
}  # fmt: skip
"""Operators under the name of the function they call."""

CHANGES_IN_PLACE = frozenset(
    {
        "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__",
    }
)  # fmt: skip


def plain(name: str) -> str:
    """Return the name of the out-of-place function that `name` is a form of."""
    if name in INPLACE_DUNDERS:
        return INPLACE_DUNDERS[name]
    if name.endswith("_") and not name.endswith("__") and len(name) > 1:
        return name[:-1]
    return name


def in_place(name: str) -> bool:
    """Return whether the function writes into its first argument."""
    if name in CHANGES_IN_PLACE:
        return True
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"

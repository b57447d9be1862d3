"""Bugs in the norm: its form, its gain and bias, its eps, its casts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.parts import NormPart, Parts
from ffn_probe.zoo.norms import NORMS

EPSILONS = (
    1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-3, 1e-4, 1e-2, 2.0**-23, 2.0**-7, 1.5625e-7, 5e-6, 1e-9,
    0.0,
)  # fmt: skip

_KINDS = {n.name: n.kind for n in NORMS}
_TITLES = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
_ONE_PLUS = {"rmsnorm_1p": "rmsnorm_fp32", "layernorm_1p": "layernorm"}
_CASTS: dict[str, tuple[str, str]] = {
    "rmsnorm": ("cast order", "cast, then the weight"),
    "rmsnorm_fp32": ("cast order", "the weight in float32, then the cast"),
    "rmsnorm_native": ("no float32 upcast", ""),
}


def norm_bugs(case: Case) -> Iterator[Bug]:
    """Yield every bug of the norm that could be in a block like this one."""
    norm = case.parts.norm
    if norm.form == "none":
        return
    yield from _forms(case)
    yield from _gains(case)
    yield from _epsilons(case)
    yield from _casts(norm)


def _changed(**changes: Any) -> Change:
    """Return a change of fields of the norm; a function gets the norm."""

    def change(parts: Parts) -> Parts:
        made = {k: v(parts.norm) if callable(v) and k != "function" else v
                for k, v in changes.items()}  # fmt: skip
        return parts.with_(norm=replace(parts.norm, **made))

    return change


def _kind(norm: NormPart) -> str:
    return _KINDS.get(norm.form, "other")


# ---- the form ---------------------------------------------------------------------------


def _forms(case: Case) -> Iterator[Bug]:
    norm = case.parts.norm
    kind = _kind(norm)
    yield Bug(
        "norm missing", "normed", _changed(form="none", function=None),
        f"normalise before {case.block.name}", slot="form", rank=1,
    )  # fmt: skip
    other = {"layernorm": "rmsnorm", "rmsnorm": "layernorm"}.get(kind)
    if other is not None:
        title = f"{_TITLES[kind]} run as {_TITLES[other]}"
        fix = f"use {_TITLES[kind]} in {case.block.norm.module or case.block.name}"
        form = f"{other}_1p" if norm.form in _ONE_PLUS else other
        if norm.bias is None:
            yield Bug(title, "normed", _changed(form=form), fix, slot="form")
        else:
            yield Bug(
                title, "normed", _changed(form=form, bias=None), fix, "bias dropped", "form"
            )
            yield Bug(title, "normed", _changed(form=form), fix, "bias kept", "form")
    yield Bug(
        "partial RMSNorm", "normed", _changed(form="prmsnorm"), "use all channels", slot="form",
        rank=3,
    )  # fmt: skip
    yield Bug(
        "unit length instead of unit RMS", "normed", _changed(form="l2norm"),
        "multiply by sqrt(d_model)", slot="form", rank=2,
    )  # fmt: skip
    if kind == "layernorm":
        yield Bug(
            "variance with n - 1", "normed", _changed(function=_unbiased),
            "divide the sum of squares by n (correction=0)", slot="form", rank=2,
        )  # fmt: skip
        yield Bug(
            "mean not subtracted from what is scaled", "normed", _changed(function=_uncentred),
            "subtract the mean", slot="form", rank=3,
        )  # fmt: skip
    yield Bug(
        "norm applied twice", "normed", _twice, "normalise once", slot="form", rank=2,
    )  # fmt: skip


def _twice(parts: Parts) -> Parts:
    norm = parts.norm
    plain = replace(norm, form=norm.form)

    def function(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        again = replace(plain, weight=weight, bias=bias, eps=eps)
        return again.apply(again.apply(x))

    return parts.with_(norm=replace(norm, function=function))


def _unbiased(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    variance = x.var(-1, keepdim=True, correction=1)
    return _gained((x - x.mean(-1, keepdim=True)) * torch.rsqrt(variance + eps), weight, bias)


def _uncentred(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    variance = x.var(-1, keepdim=True, correction=0)
    return _gained(x * torch.rsqrt(variance + eps), weight, bias)


def _gained(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = x if weight is None else x * weight
    return y if bias is None else y + bias


# ---- gain and bias ----------------------------------------------------------------------


def _gains(case: Case) -> Iterator[Bug]:
    norm = case.parts.norm
    where = case.block.norm.module or case.block.name
    if norm.bias is not None:
        yield Bug(
            "norm bias dropped", "normed", _changed(bias=None), f"add the bias of {where}",
            slot="norm bias",
        )  # fmt: skip
    if norm.weight is None:
        return
    if norm.form in _ONE_PLUS:
        yield Bug(
            "(1 + w) missing", "normed", _changed(form=_ONE_PLUS[norm.form]),
            f"multiply by 1 + weight in {where}", slot="gain",
        )  # fmt: skip
        yield Bug(
            "(1 + w) doubled", "normed", _changed(weight=lambda n: n.weight + 1),
            f"add 1 to the weight of {where} once, in the forward or in the checkpoint",
            slot="gain",
        )  # fmt: skip
    else:
        yield Bug(
            "(1 + w) added", "normed", _changed(weight=lambda n: n.weight + 1),
            f"multiply by the weight of {where} itself", slot="gain",
        )  # fmt: skip
    yield Bug(
        "gain not folded", "normed", _changed(weight=_no_gain, form=_without_one),
        f"multiply by the weight of {where}, or fold it into the projections", slot="gain",
    )  # fmt: skip
    yield Bug(
        "gain applied twice", "normed", _changed(weight=_squared, form=_without_one),
        f"multiply by the weight of {where} once", slot="gain", rank=2,
    )  # fmt: skip
    for name, gain in case.gains.items():
        yield Bug(
            "weights of another norm", "normed", _changed(weight=_constant(gain)),
            f"load the weight of {where}", name, "gain", rank=3,
        )  # fmt: skip


def _constant(tensor: Tensor) -> Any:
    return lambda _: tensor


def _no_gain(_: NormPart) -> Tensor | None:
    return None


def _without_one(norm: NormPart) -> str:
    return _ONE_PLUS.get(norm.form, norm.form)


def _squared(norm: NormPart) -> Tensor | None:
    weight = effective_gain(norm)
    return None if weight is None else weight * weight


def effective_gain(norm: NormPart) -> Tensor | None:
    """Return what the norm multiplies by."""
    if norm.weight is None:
        return None
    return norm.weight + 1 if norm.form in _ONE_PLUS else norm.weight


# ---- eps and casts ----------------------------------------------------------------------


def _epsilons(case: Case) -> Iterator[Bug]:
    norm = case.parts.norm
    line = case.config.get("eps", f"{case.block.norm.module or case.block.name}.eps")
    for eps in EPSILONS:
        if abs(eps - norm.eps) > 1e-3 * norm.eps:
            yield Bug(
                f"eps {eps:.6g} instead of {norm.eps:.6g}", "normed", _changed(eps=eps),
                f"{line} = {norm.eps:.6g}", slot="eps", rank=1,
            )  # fmt: skip
    outside = {"layernorm": _eps_outside_ln, "rmsnorm": _eps_outside_rms}.get(_kind(norm))
    if outside is not None and norm.form != "rmsnorm_eps_outside":
        for eps in dict.fromkeys((norm.eps, 1e-5, 1e-6, 1e-8)):
            yield Bug(
                "eps outside the root", "normed",
                _changed(function=outside, eps=eps, weight=effective_gain),
                "divide by sqrt(mean square + eps)", f"{eps:.6g}", "eps",
                rank=1 if eps == norm.eps else 2,
            )  # fmt: skip


def _eps_outside_rms(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    return _gained(x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps), weight, bias)


def _eps_outside_ln(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    deviation = x.var(-1, keepdim=True, correction=0).sqrt()
    return _gained((x - x.mean(-1, keepdim=True)) / (deviation + eps), weight, bias)


def _casts(norm: NormPart) -> Iterator[Bug]:
    """Yield the cast conventions: they differ in low precision alone."""
    if norm.form in _CASTS:
        for form, (name, variant) in _CASTS.items():
            if form != norm.form:
                benign = name == "cast order"
                yield Bug(
                    name, "normed", _changed(form=form), "compute the norm in float32", variant,
                    "cast", rank=4, benign=benign,
                )  # fmt: skip
    if norm.form == "rmsnorm_1p":
        yield Bug(
            "no float32 upcast", "normed", _changed(form="rmsnorm_native", weight=_plus_one),
            "compute the norm in float32", "", "cast", rank=4,
        )  # fmt: skip
        yield Bug(
            "cast order", "normed", _changed(form="rmsnorm", weight=_plus_one),
            "multiply by 1 + weight in float32", "cast, then the weight", "cast", rank=4,
            benign=True,
        )  # fmt: skip
    if norm.form == "layernorm":
        yield Bug(
            "no float32 upcast", "normed", _changed(function=_native_ln),
            "compute the norm in float32", "", "cast", rank=4,
        )  # fmt: skip


def _plus_one(norm: NormPart) -> Tensor | None:
    return None if norm.weight is None else norm.weight + 1


def _native_ln(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    return _gained(centred * torch.rsqrt(variance + eps), weight, bias)

"""Quantization that is right, and scales that are stale, doubled, left out or rounded late."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ffn_probe.formats import FormatError, fake_quantize, number_format
from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.autopsy.gating import gating_of, regated
from ffn_probe.replay.autopsy.layout_bugs import matrix, told
from ffn_probe.replay.parts import Parts
from ffn_probe.swaps.weights import Matrix

_SCALED: tuple[tuple[str, str], ...] = (
    ("int8", "channel"), ("int8", "tensor"), ("int8", "group"), ("int4", "group"),
    ("int4", "channel"), ("e4m3fn", "tensor"), ("e4m3fn", "channel"), ("e5m2", "tensor"),
)  # fmt: skip
_BLOCKED = ("mxfp8", "mxfp4", "nvfp4")
_STALE = (2.0, 4.0, 8.0, 16.0, 0.5, 0.25, 0.125)
_GROUP = 128
_BLOCK = 32
_CLOSE = 6e-3
"""Relative distance of a candidate's matrix from a fit: the rounding of bfloat16."""

_HEALTHY = "weights quantized"
_FIXES: Mapping[str, str] = {
    _HEALTHY: "nothing: this is what the format costs",
    "quantization scale stale": "measure the scale on the weights that are stored",
    "quantization scale applied twice": "multiply by the scale once",
    "quantization scale not applied": "multiply by the scale",
    "scale rounded after quantizing": "round the scale to a power of two before it is used",
}


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to store a matrix: the bug's name, its variant, and what it makes of rows."""

    name: str
    variant: str
    function: Callable[[Tensor], Tensor]


def weight_bugs(case: Case) -> Iterator[Bug]:
    """Yield the quantization, right or wrong, that gives the candidate's own matrices."""
    found: dict[str, tuple[_Way, Tensor]] = {}
    for name, own in case.matrices.items():
        healthy = matrix(case.parts, name)
        if healthy is None or healthy.weight.shape != own.weight.shape:
            continue
        target, start = own.weight.detach().cpu(), healthy.weight.detach().cpu()
        if _distance(start.to(target.dtype), target) == 0:
            continue
        fit = _nearest(start.float(), target.float())
        if fit is not None:
            found[name] = fit
    if not found:
        return
    wrong = {n: way for n, (way, _) in found.items() if way.name != _HEALTHY}
    chosen = wrong or {n: way for n, (way, _) in found.items()}
    way = next(iter(chosen.values()))
    names = ", ".join(told(case.parts, n) for n in chosen)
    yield Bug(
        way.name, next(iter(chosen)), _stored({n: w for n, (_, w) in found.items()}),
        _FIXES[way.name], f"{way.variant}: {names}", "weights", 2, way.name == _HEALTHY,
    )  # fmt: skip


def site_bugs(case: Case) -> Iterator[Bug]:
    """Yield activations that are stored in a format before a projection, right or wrong."""
    for way in _ways(tokens=True):
        fix = _FIXES[way.name].replace("weights that are stored", "activations of the step")
        name = way.name.replace("weights", "activations")
        benign = way.name == _HEALTHY
        yield Bug(
            name, "normed", lambda parts: parts.with_(), fix, f"{way.variant}: FFN input",
            "site normed", 4, benign, entering=_in_dtype(way), rounds=True,
        )  # fmt: skip
        if gating_of(case.parts) is not None:
            yield Bug(
                name, "hidden", _kept(way), fix, f"{way.variant}: hidden", "site hidden", 4,
                benign, rounds=True,
            )  # fmt: skip


def _kept(way: _Way) -> Change:
    return lambda parts: regated(parts, stored=_in_dtype(way))


def _in_dtype(way: _Way) -> Callable[[Tensor], Tensor]:
    return lambda rows: way.function(rows.float().cpu()).to(rows.device, rows.dtype)


def _stored(made: Mapping[str, Tensor]) -> Change:
    def change(parts: Parts) -> Parts:
        new: dict[str, Matrix] = {}
        for name, weight in made.items():
            old = matrix(parts, name)
            if old is not None:
                new[name] = Matrix(weight.to(old.weight.device), old.bias)
        return parts.with_(**new)

    return change


def _nearest(start: Tensor, target: Tensor) -> tuple[_Way, Tensor] | None:
    """Return the way that gives `target`, with what it gives."""
    best: tuple[float, _Way, Tensor] | None = None
    for way in _ways(tokens=False, shrunk=_shrinkage(start, target)):
        try:
            made = way.function(start)
        except FormatError:  # a width that is no multiple of the group
            continue
        distance = _distance(made, target)
        if best is None or distance < best[0]:
            best = (distance, way, made)
    if best is None or best[0] > _CLOSE:
        return None
    return best[1], best[2]


def _shrinkage(start: Tensor, target: Tensor) -> float:
    """Return how much smaller the largest weight is: what a stale scale clips it to."""
    top = float(start.abs().max())
    return float(target.abs().max()) / top if top else 1.0


def _distance(a: Tensor, b: Tensor) -> float:
    size = float(b.float().norm())
    return float((a.float() - b.float()).norm()) / size if size else 0.0


# ---- ways -------------------------------------------------------------------------------


def _ways(*, tokens: bool, shrunk: float = 1.0) -> Iterator[_Way]:
    """Yield every way to store rows [rows, channels]: of activations, or of weights."""
    for form, scope in _SCALED:
        scope = {"channel": "token"}.get(scope, scope)  # noqa: PLW2901
        label = f"{form}:{scope if tokens else {'token': 'channel'}.get(scope, scope)}"
        yield _Way(_HEALTHY, label, _scaled(form, scope))
        factors = [*_STALE, *([shrunk] if shrunk < 0.98 else [])]
        for factor in dict.fromkeys(factors):
            text = f"{label}, off by {factor:.3g}x"
            yield _Way("quantization scale stale", text, _scaled(form, scope, factor))
        yield _Way("scale rounded after quantizing", label, _scaled(form, scope, late=True))
        if not tokens:
            yield _Way("quantization scale applied twice", label, _scaled(form, scope, power=2))
            yield _Way("quantization scale not applied", label, _scaled(form, scope, power=0))
    for form in _BLOCKED:
        yield _Way(_HEALTHY, form, _blocked(form))
    yield _Way("scale rounded after quantizing", "e4m3fn by 32", late_block)


def _scaled(
    form: str, scope: str, factor: float = 1.0, *, late: bool = False, power: int = 1
) -> Callable[[Tensor], Tensor]:
    """Return a round trip through a format with its scale off by `factor`.

    `late` rounds the scale up to a power of two after quantizing; `power` is how often it is
    multiplied by afterwards.
    """

    def function(rows: Tensor) -> Tensor:
        parts, shape = _in_scopes(rows, scope)
        top = parts.abs().amax(-1, keepdim=True).clamp(min=1e-30)
        scale = top / number_format(form).max * factor
        stored = _round_trip(parts, form, scale)
        after = torch.exp2(torch.ceil(torch.log2(scale))) if late else scale
        return (stored / scale * after if late else stored * scale ** (power - 1)).reshape(
            shape
        )

    return function


def _in_scopes(rows: Tensor, scope: str) -> tuple[Tensor, torch.Size]:
    """Return rows of which each has one scale, and the shape to go back to."""
    if scope == "tensor":
        return rows.reshape(1, -1), rows.shape
    if scope == "token":
        return rows, rows.shape
    if rows.shape[-1] % _GROUP:
        raise FormatError(f"{rows.shape[-1]} channels are no multiple of {_GROUP}")
    return rows.reshape(-1, _GROUP), rows.shape


def _round_trip(rows: Tensor, form: str, scale: Tensor) -> Tensor:
    steps = scale.expand(len(rows), 1).numpy().astype(np.float32)
    made = fake_quantize(rows.numpy(), form, granularity="token", scale=steps)
    return torch.from_numpy(np.ascontiguousarray(made))


def _blocked(form: str) -> Callable[[Tensor], Tensor]:
    def function(rows: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(fake_quantize(rows.numpy(), form)))

    return function


def late_block(rows: Tensor) -> Tensor:
    """Return blocks of 32 in e4m3 whose scale was rounded up after quantizing with it."""
    if rows.shape[-1] % _BLOCK:
        raise FormatError(f"{rows.shape[-1]} channels are no multiple of {_BLOCK}")
    made = _scaled("e4m3fn", "token", late=True)(rows.reshape(-1, _BLOCK))
    return made.reshape(rows.shape)

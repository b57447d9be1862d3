"""Name a function from its inputs and outputs.

`identify_activation`, `identify_gate` and `identify_norm` compare observed pairs with every
form of the zoo and return the best Match, or None when nothing fits: no guess is made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ffn_probe.zoo.activations import ACTIVATIONS, activation, swish, xielu
from ffn_probe.zoo.gates import GATES, Gate
from ffn_probe.zoo.norms import l2norm, prmsnorm, rmsnorm_eps_outside, rmsnorm_native

_Rows = Callable[[Tensor, float], Tensor]

TOLERANCE = 2e-6
"""Largest error of a match, as |difference| / (1 + |output|); tanh and erf GELU differ by
1.3e-4 on this scale."""

_EPSILONS = (
    1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-9, 1e-3, 1e-4, 1.5625e-7, 2.0**-23, 2.0**-7, 1e-10, 1e-15,
    1e-20, 0.0, 5e-6, 3e-6, 2e-5, 1e-2,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """The zoo's form that reproduces the pairs, with its fitted parameters and error."""

    name: str
    error: float
    params: Mapping[str, float] = field(default_factory=dict)
    joint: bool = False


@dataclass(frozen=True, slots=True)
class NormMatch:
    """The norm that reproduces the rows: kind, how the gain enters, bias, eps."""

    kind: str
    function: str
    gain: str | None
    bias: bool
    eps: float | None
    error: float


def apply_match(match: Match, gate: Tensor, value: Tensor | None) -> Tensor:
    """Return the hidden tensor that `match` makes of gate and value (None: a plain MLP)."""
    if match.joint and value is not None:
        form = next(g for g in GATES if g.name == match.name)
        return form.function(gate, value, **match.params)
    if match.name == "topk_gelu_tanh":
        acted = _topk_gelu_tanh(gate, match.params["multiplier"])
    else:
        acted = activation(match.name).function(gate, **match.params)
    return acted if value is None else acted * value


# Activations


def identify_activation(
    x: Tensor, y: Tensor, *, hints: Mapping[str, float] | None = None
) -> Match | None:
    """Return the activation with y = act(x), or None.

    Args:
        x: inputs that span both signs and the curved region (about [-12, 12]).
        y: outputs of the same shape.
        hints: parameter values to try first, by name.
    """
    if x.shape != y.shape or not bool(torch.isfinite(y).all()) or x.numel() == 0:
        return None
    return _best(_fixed(x), y) or _best(_fitted(x, y, hints or {}), y)


def _best(
    candidates: Iterator[tuple[str, dict[str, float], Tensor]], y: Tensor
) -> Match | None:
    best: Match | None = None
    for name, params, values in candidates:
        error = _distance(values, y)
        if error <= TOLERANCE and (best is None or error < best.error / 4):
            best = Match(name, error, params)
    return best


def _distance(values: Tensor, observed: Tensor) -> float:
    return float(((values - observed).abs() / (1 + observed.abs())).nan_to_num(1e9).max())


def _fixed(x: Tensor) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    """Yield the forms without a free parameter; they come before those that can be fitted."""
    for entry in ACTIVATIONS:
        if not entry.params or entry.name == "laplace":
            yield entry.name, dict(entry.params), entry.function(x, **entry.params)


def _fitted(
    x: Tensor, y: Tensor, hints: Mapping[str, float]
) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    yield from _leaky(x, y)
    yield from _elu(x, y)
    yield from _swish(x, y, hints)
    yield from _xielu(x, y)
    yield from _topk(x, y)


def _leaky(x: Tensor, y: Tensor) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    i = int(x.argmin())
    if float(x.flatten()[i]) < 0:
        slope = float(y.flatten()[i] / x.flatten()[i])
        if slope not in {0.0, 1.0}:
            yield "leaky_relu", {"negative_slope": slope}, F.leaky_relu(x, slope)


def _elu(x: Tensor, y: Tensor) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    alpha = -float(y.flatten()[int(x.argmin())])
    if alpha > 0:
        nearest = round(alpha, 3)
        yield "elu", {"alpha": nearest}, F.elu(x, alpha=nearest)


def _swish(
    x: Tensor, y: Tensor, hints: Mapping[str, float]
) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    ratio = (y / x)[(x.abs() > 0.05) & (x.abs() < 3)]
    points = x[(x.abs() > 0.05) & (x.abs() < 3)]
    inside = (ratio > 1e-6) & (ratio < 1 - 1e-6)
    if int(inside.sum()) > 8:
        beta = float((torch.logit(ratio[inside]) / points[inside]).median())
        for value in (beta, round(beta, 4), hints.get("beta", beta)):
            yield "swish_beta", {"beta": value}, swish(x, value)


def _xielu(x: Tensor, y: Tensor) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    zero = torch.zeros_like(x)
    columns = torch.stack(
        [
            torch.where(x > 0, x * x, zero),
            torch.where(x > 0, zero, torch.expm1(x.clamp(max=0)) - x),
            x,
        ],
        dim=-1,
    ).reshape(-1, 3)
    if columns.shape[0] < 8:
        return
    fit = torch.linalg.lstsq(columns.double(), y.reshape(-1, 1).double()).solution.flatten()
    names = ("alpha_p", "alpha_n", "beta")
    params = dict(zip(names, fit.tolist(), strict=True))
    if abs(params["alpha_p"]) > 1e-6 and abs(params["alpha_n"]) > 1e-6:
        yield "xielu", params, xielu(x, **params)


def _topk_gelu_tanh(x: Tensor, multiplier: float) -> Tensor:
    """Gemma 3n: GELU of what exceeds mean + multiplier * std of its row."""
    cutoff = x.mean(-1, keepdim=True) + multiplier * x.std(-1, keepdim=True, correction=0)
    return F.gelu(F.relu(x - cutoff), approximate="tanh")


def _topk(x: Tensor, y: Tensor) -> Iterator[tuple[str, dict[str, float], Tensor]]:
    if x.dim() < 2 or x.shape[-1] < 4 or float((y == 0).double().mean()) < 0.5:
        return
    for share in (0.95, 0.9, 0.99, 0.98, 0.8, 0.75, 0.5):
        multiplier = float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))
        values = _topk_gelu_tanh(x, multiplier)
        yield "topk_gelu_tanh", {"multiplier": multiplier}, values


# Gate and value


def identify_gate(gate: Tensor, value: Tensor, hidden: Tensor) -> Match | None:
    """Return the form with hidden = f(gate, value), or None."""
    for entry in ACTIVATIONS:
        if not entry.params:
            error = _distance(entry.function(gate) * value, hidden)
            if error <= TOLERANCE:
                return Match(entry.name, error)
    best: Match | None = None
    for form in GATES:
        for params in _gate_params(form, gate, value, hidden):
            error = _distance(form.function(gate, value, **params), hidden)
            if error <= TOLERANCE and (best is None or error < best.error):
                best = Match(form.name, error, params, joint=True)
    return best


def _gate_params(
    form: Gate, gate: Tensor, value: Tensor, hidden: Tensor
) -> Iterator[dict[str, float]]:
    yield dict(form.params)
    if "limit" in form.params:
        for limit in _limits(form.function, form.params, gate, value, hidden):
            yield {**form.params, "limit": limit}
    if form.name == "situ_glu":
        for first in (1.0, 2.0, 4.0, 8.0, 10.0):
            for second in (1.0, 4.0, 8.0, 10.0, 16.0, 25.0, 32.0, 100.0):
                yield {"gate_limit": first, "value_limit": second}


def _limits(
    function: Callable[..., Tensor],
    params: Mapping[str, float],
    gate: Tensor,
    value: Tensor,
    hidden: Tensor,
) -> list[float]:
    """Return limits read off the largest output at large gate and value."""
    rest = {k: v for k, v in params.items() if k != "limit"}
    target = float(hidden.abs().max())
    low, high = 1e-3, 1e3
    for _ in range(80):
        middle = (low * high) ** 0.5
        reach = float(function(gate, value, limit=middle, **rest).abs().max())
        low, high = (middle, high) if reach < target else (low, middle)
    return [low, *(float(round(low, digits)) for digits in (0, 1, 2, 4))]


# Norms


def identify_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps_hint: float | None = None,
) -> NormMatch | None:
    """Return the norm with y = norm(x), or None.

    Args:
        x: rows of varied mean and scale, down to an RMS at which eps matters; [rows, d].
        y: the norm's output, [rows, d].
        weight: its gain vector [d], when it has one.
        bias: its bias vector [d], when it has one.
        eps_hint: a value of eps to try first.
    """
    if x.shape != y.shape or not bool(torch.isfinite(y).all()):
        return None
    epsilons = ([eps_hint] if eps_hint is not None else []) + list(_EPSILONS)
    best: NormMatch | None = None
    stride = max(1, len(x) // 16)
    few = x[::stride]
    for name, kind, gain, row in _norm_rows(weight):
        with_bias = (
            bias if bias is not None else torch.zeros((), dtype=y.dtype, device=y.device)
        )
        for eps in epsilons:
            if _row_error(row(few, eps) + with_bias, y[::stride]) > 1e-5:
                continue
            error = _row_error(row(x, eps) + with_bias, y)
            if error <= 1e-5 and (best is None or error < best.error / 4):
                best = NormMatch(kind, name, gain, bias is not None, eps, error)
    return best if best is not None else _squashed(x, y, weight, bias)


def _row_error(expected: Tensor, y: Tensor) -> float:
    return float(((expected - y).abs().amax(-1) / y.abs().amax(-1).clamp(min=1e-12)).max())


def _norm_rows(weight: Tensor | None) -> Iterator[tuple[str, str, str | None, _Rows]]:
    """Return (name, kind, gain, function of rows and eps) of every form to try."""
    gains: list[tuple[str, str | None, Tensor | float]] = [("", None, 1.0)]
    if weight is not None:
        gains = [("", "w", weight), ("_1p", "1+w", 1.0 + weight)]
    for suffix, gain, factor in gains:
        for name, kind, plain in _PLAIN_NORMS:
            yield name + suffix, kind, gain, _scaled(plain, factor)


def _scaled(plain: _Rows, factor: Tensor | float) -> _Rows:
    return lambda x, eps: plain(x, eps) * factor


_PLAIN_NORMS: tuple[tuple[str, str, _Rows], ...] = (
    ("layernorm", "layernorm", lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=eps)),
    ("rmsnorm", "rmsnorm", lambda x, eps: rmsnorm_native(x, None, None, eps)),
    ("rmsnorm_eps_outside", "rmsnorm", lambda x, eps: rmsnorm_eps_outside(x, None, None, eps)),
    (
        "layernorm_eps_outside",
        "layernorm",
        lambda x, eps: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps),
    ),
    ("prmsnorm", "other", lambda x, eps: prmsnorm(x, None, None, eps)),
    ("l2norm", "other", lambda x, eps: l2norm(x, None, None, eps)),
)


def _squashed(
    x: Tensor, y: Tensor, weight: Tensor | None, bias: Tensor | None
) -> NormMatch | None:
    """Return DyT when y = w tanh(a x) + b for some a."""
    inner = y if bias is None else y - bias
    if weight is not None:
        keep = weight.abs() > 1e-6
        inner, x = inner[:, keep] / weight[keep], x[:, keep]
    usable = (inner.abs() < 0.9) & (inner.abs() > 1e-3) & (x.abs() > 1e-6)
    if int(usable.sum()) < 8:
        return None
    scale = float((torch.atanh(inner[usable]) / x[usable]).median())
    error = float((torch.tanh(scale * x) - inner).abs().max())
    if error > 1e-5:
        return None
    return NormMatch(
        "other", "dyt", "w" if weight is not None else None, bias is not None, None, error
    )

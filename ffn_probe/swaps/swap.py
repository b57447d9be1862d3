"""Swap: what is to be swapped, as a value that can be stored, said and read."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps import activations, dtypes, gating, quantized, target
from ffn_probe.zoo.activations import activation

HOWS: tuple[str, ...] = ("naive", "matched", "exact")
"""How a swap is done: as a hasty edit, refitted on calibration batches, or exactly."""

SCOPES: tuple[str, ...] = ("ffn", "all")
"""Which norms: those that enter the chosen blocks, or all over d_model channels."""

_NORM_PARAMS = {"dyt": ("alpha",), "none": ()}


@dataclass(frozen=True, slots=True)
class Swap:
    """What is to be swapped where, and how; None and empty: left as it is.

    `norm`, `activation` and `gating` are names, with parameters behind colons
    ("swish_beta:beta=1.5"). `quantize` maps roles and matrices to formats ("int8:token").
    `blocks` are globs of names or layer ordinals (None: all).

    >>> swap = Swap.parse("norm=rmsnorm,activation=silu,quantize=hidden:int8:token")
    >>> swap.text
    'norm=rmsnorm, activation=silu, quantize=hidden:int8:token (naive)'
    >>> Swap.from_dict(swap.to_dict()) == swap
    True

    Raises:
        UnknownName: a name, parameter, format or way is unknown.
        SwapError: nothing is to be swapped, or two wishes contradict.
        FormatError: a format does not go with a granularity.
    """

    norm: str | None = None
    activation: str | None = None
    gating: str | None = None
    dtype: str | None = None
    quantize: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[str | int, ...] | None = None
    norms: str = "ffn"
    how: str = "naive"

    def __post_init__(self) -> None:
        """Check every name, and write it in the one way in which it is stored."""
        quantize = {k: quantized.Quantizer.parse(v).text for k, v in self.quantize.items()}
        object.__setattr__(self, "quantize", quantize)
        if self.dtype is not None:
            object.__setattr__(self, "dtype", dtypes.dtype_name(self.dtype))
        _check_names(self)
        _check_together(self)

    @classmethod
    def of(
        cls,
        *,
        norm: str | None = None,
        activation: str | None = None,
        gating: str | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: Mapping[str, str] | None = None,
        blocks: str | int | Iterable[str | int] | None = None,
        norms: str = "ffn",
        how: str = "naive",
    ) -> "Swap":
        """Return the swap of what a caller writes: a torch dtype, one block, none."""
        some = (blocks,) if isinstance(blocks, str | int) else blocks
        return cls(
            norm=norm, activation=activation, gating=gating,
            dtype=None if dtype is None else dtypes.dtype_name(dtype),
            quantize=dict(quantize or {}), norms=norms, how=how,
            blocks=None if some is None else tuple(some),
        )  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> "Swap":
        """Return the swap of "key=value,key=value"; a key may come several times.

        Several blocks are joined with "+": "blocks=0+-1"; a matrix or role stands before its
        format: "quantize=w_down:int4:group=32".

        Raises:
            UnknownName: a key is unknown, or a name as above.
            SwapError: a part has no "=", or a key that stands once comes twice.
        """
        wishes: dict[str, Any] = {"quantize": {}}
        keys = [f.name for f in fields(cls)]
        for part in filter(None, (p.strip() for p in text.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if key not in keys:
                raise UnknownName.of("part of a swap", key, keys)
            if not equals or not value:
                raise SwapError(f"{part!r} says not what {key} is to become; write {key}=...")
            if key == "quantize":
                name, _, form = value.partition(":")
                wishes["quantize"][name] = form
            elif key == "blocks":
                listed = tuple(piece.strip() for piece in value.split("+"))
                wishes["blocks"] = (*wishes.get("blocks", ()), *map(_ordinal, listed))
            elif key in wishes:
                raise SwapError(f"{key} is given twice: {wishes[key]!r} and {value!r}")
            else:
                wishes[key] = value
        return cls(**wishes)

    @property
    def text(self) -> str:
        """The swap in one line."""
        said = [(k, getattr(self, k)) for k in ("norm", "activation", "gating", "dtype")]
        parts = [f"{key}={value}" for key, value in said if value is not None]
        parts += [f"quantize={name}:{form}" for name, form in self.quantize.items()]
        if self.blocks is not None:
            parts.append("blocks=" + "+".join(map(str, self.blocks)))
        if self.norms != "ffn":
            parts.append(f"norms={self.norms}")
        return f"{', '.join(parts)} ({self.how})"

    @property
    def params(self) -> Mapping[str, Mapping[str, float]]:
        """The numbers behind the names of norm, activation and gating."""
        said = {k: getattr(self, k) for k in ("norm", "activation", "gating")}
        return {key: named(key, text)[1] for key, text in said.items() if text is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        data = asdict(self)
        data["blocks"] = None if self.blocks is None else list(self.blocks)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Swap":
        """Return the swap that `to_dict` came from.

        Raises:
            UnknownName: an entry is none of a swap.
        """
        keys = [f.name for f in fields(cls)]
        for key in data:
            if key not in keys:
                raise UnknownName.of("part of a swap", key, keys)
        rest = dict(data)
        blocks = rest.pop("blocks", None)
        return cls(**rest, blocks=None if blocks is None else tuple(blocks))


def named(noun: str, text: str) -> tuple[str, dict[str, float]]:
    """Return name and numbers of "name:key=number:key=number".

    Raises:
        SwapError: a part behind the name is no number with a name.
    """
    name, *rest = text.split(":")
    params: dict[str, float] = {}
    for part in rest:
        key, _, number = part.partition("=")
        try:
            params[key] = float(number)
        except ValueError:
            params[key] = math.nan
        if not math.isfinite(params[key]):
            raise SwapError(
                f"{noun} {text!r}: {part!r} is no parameter; write {name}:{key}=1.0"
            )
    return name, params


# ---- checks -----------------------------------------------------------------------------


def _ordinal(text: str) -> str | int:
    return int(text) if text.lstrip("-").isdigit() else text


def _check_names(swap: Swap) -> None:
    for noun, name, known in (("how", swap.how, HOWS), ("norms", swap.norms, SCOPES)):
        if name not in known:
            raise UnknownName.of(f"value of {noun}", name, known)
    _check_quantize(swap.quantize)
    if swap.norm is not None:
        _check_norm(*named("norm", swap.norm))
    if swap.activation is not None:
        name, params = named("activation", swap.activation)
        activation(name)
        activations.form_of(name, params)
    if swap.gating is not None:
        _check_gating(*named("gating", swap.gating))


def _check_quantize(quantize: Mapping[str, str]) -> None:
    for name, text in quantize.items():
        if name not in quantized.NAMES:
            raise UnknownName.of("role or matrix", name, quantized.NAMES)
        if name in quantized.WEIGHTS and ":token" in text:
            raise SwapError(
                f"quantize={name}:{text}: a matrix has no tokens; choose "
                f"{name}:{text.replace(':token', ':channel')}, one scale an output"
            )


def _check_norm(name: str, params: Mapping[str, float]) -> None:
    if name not in target.TARGETS:
        raise UnknownName.of("norm", name, target.TARGETS)
    known = _NORM_PARAMS.get(name, ("eps",))
    for key in params:
        if key not in known:
            raise UnknownName.of("parameter", key, known, f"({name})")


def _check_gating(name: str, params: Mapping[str, float]) -> None:
    if name not in gating.NAMES:
        raise UnknownName.of("gating", name, gating.NAMES)
    if name in {gating.GATED, gating.MLP, gating.SMOOTH}:
        for key in params:
            raise UnknownName.of("parameter", key, (), f"({name})")
    else:
        activations.form_of(gating.PLAIN.get(name, name), params)


def _check_together(swap: Swap) -> None:
    wishes = (swap.norm, swap.activation, swap.gating, swap.dtype)
    if not any(wishes) and not swap.quantize:
        raise SwapError(
            "nothing is to be swapped: give norm, activation, gating, dtype or quantize"
        )
    if swap.blocks is not None and not swap.blocks:
        raise SwapError("blocks is empty: name at least one, or leave it out for all")
    if swap.norms == "all" and (swap.norm is None or swap.blocks is not None):
        raise SwapError(
            "norms='all' says that norm= is for every norm of the model: it needs norm=, and "
            "goes without blocks="
        )
    free = {None, gating.GATED, gating.MLP}
    if (
        swap.activation is not None
        and (None if swap.gating is None else named("gating", swap.gating)[0]) not in free
    ):
        raise SwapError(
            f"gating={swap.gating!r} names its activation already; leave out "
            f"activation={swap.activation!r}, or write gating='gated'"
        )
    shaped = (swap.norm, swap.activation, swap.gating)
    if swap.how == "matched" and not any(shaped):
        raise SwapError("how='matched' fits norms and activations; there is none to fit here")
    if swap.how == "exact" and (swap.norm is None or any(wishes[1:]) or swap.quantize):
        raise SwapError("how='exact' converts norms alone; swap the rest in a second swap")

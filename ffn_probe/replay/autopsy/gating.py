"""How `hidden` is made of gate and value, in parts that can each be wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ffn_probe.replay.parts import Parts
from ffn_probe.zoo.activations import ACTIVATIONS
from ffn_probe.zoo.fingerprint import Match, apply_match

_NARROW = frozenset({torch.float16, torch.bfloat16})

_JOINT: Mapping[str, Callable[[Mapping[str, float]], dict[str, object]]] = {
    "gpt_oss_swiglu": lambda p: {
        "act": Match("swish_beta", 0.0, {"beta": p["alpha"]}), "limit": p["limit"],
        "offset": 1.0,
    },
    "clamped_swiglu": lambda p: {"act": Match("silu", 0.0), "limit": p["limit"]},
    "post_clamped_swiglu": lambda p: {
        "act": Match("silu", 0.0), "limit": p["limit"], "after": True,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gating:
    """hidden = (value + offset) * act(gate), with clamps, as a callable of gate and value.

    `times` is how often the activation is applied; `on` what it is applied to: "gate",
    "both", "product" or "sum" (then gate and value are added); `drop` names the path that is
    left out; `after` puts the gate's clamp behind the activation; `wide` computes in float32
    and rounds once. `whole` is a form that is not taken apart.
    """

    act: Match
    times: int = 1
    on: str = "gate"
    drop: str = ""
    limit: float | None = None
    after: bool = False
    offset: float = 0.0
    wide: bool = False
    whole: bool = False
    stored: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, match: Match) -> "Gating":
        """Return the parts of a form of the zoo."""
        if not match.joint:
            return cls(match)
        if match.name not in _JOINT:
            return cls(match, whole=True)
        return cls(**_JOINT[match.name](match.params))  # type: ignore[arg-type]

    def __call__(self, gate: Tensor, value: Tensor | None) -> Tensor:
        """Return hidden in the dtype of `gate`."""
        kind = gate.dtype
        if self.wide and kind in _NARROW:
            gate, value = gate.float(), None if value is None else value.float()
        made = self._made(gate, value).to(kind)
        return made if self.stored is None else self.stored(made)

    def _made(self, gate: Tensor, value: Tensor | None) -> Tensor:
        if self.whole:
            return apply_match(self.act, gate, value)
        if self.limit is not None:
            gate = gate if self.after else gate.clamp(max=self.limit)
            value = None if value is None else value.clamp(-self.limit, self.limit)
        if value is not None and self.offset:
            value = value + self.offset
        if value is None or self.drop == "value":
            return self._capped(self.acted(gate))
        if self.drop == "gate":
            return value
        if self.on == "product":
            return self.acted(gate * value)
        acted = self._capped(self.acted(gate))
        if self.on == "sum":
            return acted + value
        return acted * (self.acted(value) if self.on == "both" else value)

    def acted(self, x: Tensor) -> Tensor:
        """Return the activation of `x`, as often as it is applied."""
        for _ in range(self.times):
            x = apply_match(self.act, x, None)
        return x

    def _capped(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.limit) if self.after and self.limit is not None else x


def gating_of(parts: Parts) -> Gating | None:
    """Return how a block meets gate and value; None for a form of its own."""
    if isinstance(parts.meet, Gating):
        return parts.meet
    return Gating.of(parts.activation) if parts.meet is None else None


def regated(parts: Parts, **changes: object) -> Parts | None:
    """Return the block with parts of its gating changed; None where they cannot be."""
    gating = gating_of(parts)
    if gating is None or (gating.whole and "stored" not in changes):
        return None
    return parts.with_(meet=replace(gating, **changes))  # type: ignore[arg-type]


PLAIN = tuple(
    Match(entry.name, 0.0, dict(entry.params))
    for entry in ACTIVATIONS
    if entry.name not in {"xielu", "laplace", "swish_beta"}
)
"""The activations that one could have been mistaken for, with their published defaults."""

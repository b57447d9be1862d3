"""What a norm can be made: the names that a swap knows, and what each stands for."""

from collections.abc import Mapping
from dataclasses import dataclass

from ffn_probe.zoo.norms import NORMS, NormForm

NONE = "none"
DEFAULT_EPS = 1e-5
DEFAULT_ALPHA = 0.5
"""Where DyT begins (Zhu et al. 2025)."""

_WITH_BIAS = frozenset({"layernorm", "layernorm_1p", "dyt"})


@dataclass(frozen=True, slots=True)
class Target:
    """What a norm is to become: a form of the zoo (None: no norm), and its constants."""

    name: str
    form: NormForm | None
    with_bias: bool
    params: Mapping[str, float]


TARGETS: Mapping[str, tuple[str, bool]] = {
    **{n.name: (n.name, n.name in _WITH_BIAS) for n in NORMS},
    "layernorm_nobias": ("layernorm", False),
    NONE: (NONE, False),
}
"""Name of a swap's norm -> (form of the zoo, whether a hasty edit keeps the bias)."""


def target(name: str, params: Mapping[str, float]) -> Target:
    """Return the target of a known name."""
    form, with_bias = TARGETS[name]
    return Target(name, next((n for n in NORMS if n.name == form), None), with_bias, params)

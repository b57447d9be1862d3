"""The nouns of an FFN: Role, Tap, Norm, Projection, Block, Site.

Frozen values without torch, so that a run can be read where torch is absent. Each turns
into plain JSON (`to_dict`) and back (`from_dict`) without loss.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ROLES: tuple[str, ...] = ("resid", "normed", "gate", "gate_act", "value", "hidden", "out")
"""Where in an FFN a value is seen, in the order of the data flow."""

GRAD = "grad_"
"""Prefix of the role of a gradient: `grad_hidden` is dL/d hidden."""

PARTS: tuple[str, ...] = ("all", "first", "second", "even", "odd")
"""Which slice of the last axis holds a tensor in a fused projection."""

ROLE_TEXT: Mapping[str, str] = {
    "resid": "residual stream that enters the norm",
    "normed": "norm output = FFN input",
    "gate": "pre-activation of the nonlinearity",
    "gate_act": "after the nonlinearity",
    "value": "the linear path (up projection)",
    "hidden": "what enters the down projection",
    "out": "FFN output",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One place in the code of a forward where a torch function is called.

    `function` is the torch function's name; `trail` the code positions between the forward
    of the hooked module and the call, innermost first, as "file:qualname:bytecode offset".
    """

    function: str
    trail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tap:
    """How the tensor of one role is read during a forward pass.

    `how` is "output" or "input" (of the module `path`: hooks), or "call" (the argument or
    result of a function called while `path` runs). `index` is the position of the tensor
    among the inputs or outputs (for "call": an argument position, -1 for the result).
    `part` slices the last axis. `expert` is the expert this tap belongs to when each
    expert is a module of its own. `labels` says how the rows of a packed mixture are
    assigned to experts: "" (none), "slice" (one expert a call, from the weight's offset),
    "offsets" (rows sorted by expert, from the `offs` argument), "index" (weights gathered
    by an index, one a row) or "batch" (the first axis counts experts); `source` is then the
    call, inside the module `source_path`, that carries them. `item` picks one result of a
    call that returns several; `axis` is the axis of the channels.
    """

    role: str
    how: str
    path: str
    index: int = 0
    part: str = "all"
    keyword: str = ""
    expert: int | None = None
    call: Call | None = None
    source: Call | None = None
    source_path: str = ""
    labels: str = ""
    item: int = -1
    axis: int = -1


@dataclass(frozen=True, slots=True)
class Norm:
    """The norm whose output enters the FFN; `kind` "none" when there is none.

    `gain` is "w", "1+w" or None (no weight). `cast` names the cast convention. `function`
    is the zoo's name of the fingerprint.
    """

    kind: str
    module: str | None = None
    gain: str | None = None
    bias: bool = False
    eps: float | None = None
    cast: str | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Projection:
    """One matrix: the qualified module or parameter name and the part of it."""

    path: str
    part: str = "all"


@dataclass(frozen=True, slots=True)
class Block:
    """One feed-forward block (or one mixture of experts) of a model.

    `kind` is "glu" or "mlp"; `experts` is 0 for a dense block; `activation` a name of the
    zoo. `recompute_error` is the relative error (float32) of rebuilding `out` from the
    taps; `flags` says why a block is not to be trusted, empty when it is. `products` (one a
    block, or one an expert) say where gate and value meet, or in an MLP where the activation's
    result stands: `hidden` before a dropout or norm; what replaces an activation writes there.
    """

    name: str
    layer: int
    kind: str
    activation: str
    norm: Norm
    projections: Mapping[str, Projection]
    d_model: int
    d_ff: int
    layout: str = "separate"
    experts: int = 0
    recompute_error: float = 0.0
    taps: tuple[Tap, ...] = ()
    products: tuple[Tap, ...] = ()
    flags: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles this block can be read at, in data-flow order."""
        seen = {tap.role for tap in self.taps}
        return tuple(role for role in ROLES if role in seen)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, one level of nesting a noun."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Block":
        """Return the block that `to_dict` came from."""
        rest = dict(data)
        norm = Norm(**rest.pop("norm"))
        projections = {k: Projection(**v) for k, v in rest.pop("projections").items()}
        taps = tuple(_tap(tap) for tap in rest.pop("taps"))
        products = tuple(_tap(tap) for tap in rest.pop("products", ()))
        flags = tuple(rest.pop("flags"))
        return cls(
            norm=norm, projections=projections, taps=taps, products=products, flags=flags,
            **rest,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A block, a role and, in a mixture, an expert: where a tensor is seen."""

    layer: int
    block: str
    role: str
    expert: int = -1

    @property
    def name(self) -> str:
        """`model.layers.7.mlp/hidden`, with `#3` behind it for expert 3."""
        return f"{self.block}/{self.role}" + (f"#{self.expert}" if self.expert >= 0 else "")


def _tap(data: Mapping[str, Any]) -> Tap:
    rest = dict(data)
    for key in ("call", "source"):
        value = rest.get(key)
        if value is not None:
            rest[key] = Call(value["function"], tuple(value["trail"]))
    return Tap(**rest)

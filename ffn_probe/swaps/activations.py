"""Put another nonlinearity where gate and value meet, wherever a probe can read them."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps.interpose import interpose, readers, writers
from ffn_probe.zoo.activations import ACTIVATIONS, activation
from ffn_probe.zoo.fingerprint import Match, apply_match
from ffn_probe.zoo.gates import GATES

SCALE = "hidden_scale"
_LISTS = (
    nn.ModuleList, nn.Sequential, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Linear
)  # fmt: skip


def form_of(name: str, params: Mapping[str, float]) -> Match:
    """Return an activation or a joint gate of the zoo with its parameters.

    Raises:
        UnknownName: the zoo has no such form, or the form no such parameter.
    """
    joint = next((g for g in GATES if g.name == name), None)
    defaults = (joint or activation(name)).params
    for key in params:
        if key not in defaults:
            raise UnknownName.of("parameter", key, defaults, f"({name})")
    return Match(name, 0.0, {**defaults, **params}, joint=joint is not None)


def own_form(block: Block) -> Match:
    """Return the form that a block has now."""
    params = dict(block.details.get("activation", {}))
    joint = any(gate.name == block.activation for gate in GATES)
    return Match(block.activation, 0.0, params, joint=joint)


def said(form: Match) -> str:
    """Return a form in words that a swap understands: "swish_beta:beta=1.5"."""
    return ":".join([form.name, *(f"{k}={v:g}" for k, v in form.params.items())])


class Passing:
    """The tensors of the pass that runs; a copy or a stored one begins empty."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, int | None], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Passing":
        return Passing()

    def __reduce__(self) -> tuple[type["Passing"], tuple[()]]:
        return Passing, ()


@dataclass(slots=True, eq=False)
class Acting:
    """What stands in one block: reads gate and value, puts in what they are to meet as.

    `form` None keeps what the model computed. `at` is "gate_act" (the model multiplies) or
    "product". `value` says what gate meets: "value" (as it is), "path" (the module `path` on
    the block's input) or "" (nothing: an MLP). `scale` names a buffer of `home`.
    """

    form: Match | None
    at: str
    value: str
    home: nn.Module | None = None
    path: nn.Module | None = None
    scale: str = ""
    fired: int = 0
    passing: Passing = field(default_factory=Passing)

    def __call__(self, block: Block, tap: Tap, tensor: Tensor) -> Tensor | None:
        """Keep what is read; return what is to be put in."""
        held = self.passing.of
        if tap.role in {"gate", "value", "normed"}:
            # A copy: some models activate in place.
            held[tap.role, tap.expert] = tensor if tap.role == "normed" else tensor.clone()
            return None
        if tap.role == "product" and self.at == "gate_act":
            return self._scaled(tensor)
        gate = held.pop(("gate", tap.expert), None)
        if gate is None:
            return None  # the call of another block that shares this place
        if tap.role == "gate_act" and self.form is not None:
            made = apply_match(self.form, gate, None)
        else:
            made = self._scaled(self._meet(block, tap, gate, tensor))
        if made.numel() != tensor.numel():
            raise SwapError(
                f"the gate of {block.name!r} has the shape {tuple(gate.shape)} where "
                f"{tuple(tensor.shape)} is to be replaced; this block cannot be swapped"
            )
        self.fired += 1
        return made if made.shape == tensor.shape else made.reshape(tensor.shape)

    def _meet(self, block: Block, tap: Tap, gate: Tensor, product: Tensor) -> Tensor:
        value = self._value(block, tap, gate)
        if self.form is None:
            return product if value is None else product * value.reshape(product.shape)
        return apply_match(self.form, gate, value)

    def _value(self, block: Block, tap: Tap, gate: Tensor) -> Tensor | None:
        held = self.passing.of
        if self.value == "value":
            value = held.pop(("value", tap.expert), None)
            if value is None or value.numel() != gate.numel():
                raise SwapError(
                    f"gate and value of {block.name!r} do not come in pairs; this block "
                    "cannot be swapped"
                )
            return value.reshape(gate.shape)
        if self.value == "path" and self.path is not None:
            entering = held.pop(("normed", tap.expert))
            made: Tensor = self.path(entering)
            return made.reshape(gate.shape)
        return None

    def _scaled(self, tensor: Tensor) -> Tensor:
        if not self.scale or self.home is None:
            return tensor
        return tensor * self.home.get_buffer(self.scale).to(tensor.dtype)


def place_of(block: Block, form: Match | None) -> str:
    """Return at which role a form is put in: where the model itself multiplies, if it can."""
    plain = form is not None and not form.joint and not own_form(block).joint
    meets = block.kind == "glu" and any(tap.role == "gate_act" for tap in block.taps)
    return "gate_act" if plain and meets else "product"


def install(model: nn.Module, block: Block, acting: Acting, stack: ExitStack) -> None:
    """Put `acting` into a block until `stack` is closed.

    Raises:
        SwapError: the block says not where its gate and value are.
    """
    reads = ["gate", *(["value"] if acting.value == "value" else [])]
    reads = reads[:1] if acting.at == "gate_act" else reads
    if acting.value == "path":
        reads.append("normed")
    roles = {tap.role for tap in block.taps}
    missing = [role for role in reads if role not in roles] or (
        [] if writers(block, acting.at) else [acting.at]
    )
    if missing:
        raise SwapError(
            f"block {block.name!r} has no tap of {', '.join(missing)}; its nonlinearity cannot "
            "be replaced. Was it found by this version's discover?"
        )
    entries = [*readers(block, reads), *writers(block, acting.at)]
    if acting.scale and acting.at == "gate_act":
        entries += writers(block, "product")
    interpose(model, entries, acting, stack)


def home_of(model: nn.Module, block: Block) -> nn.Module:
    """Return the module that keeps what a swap adds to a block."""
    path = block.name
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    inside = [t.path for t in block.products if t.path.startswith(block.name + ".")]
    if isinstance(modules.get(block.name), nn.Sequential) and inside:
        path = inside[0]  # a further child would be a further step of the sequence
    while path:
        module = modules.get(path)
        if module is not None and not isinstance(module, _LISTS):
            return module
        path = path.rpartition(".")[0]
    return model


def add_buffer(home: nn.Module, name: str, values: Tensor, stack: ExitStack) -> str:
    """Register a buffer under a free name until `stack` is closed; return the name."""
    free = free_name(home, name)
    home.register_buffer(free, values)
    stack.callback(home._buffers.pop, free)
    return free


def free_name(home: nn.Module, name: str) -> str:
    """Return `name`, or with a number behind it if the module has it."""
    number, free = 1, name
    while hasattr(home, free):
        number += 1
        free = f"{name}_{number}"
    return free


NAMES: tuple[str, ...] = tuple(entry.name for entry in ACTIVATIONS)
"""The activations that a swap can put in."""

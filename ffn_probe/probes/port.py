"""Port: what a module carries while graphs of torch.compile hand over what it computes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ffn_probe.anatomy import Call

PORT = "_ffn_probe_port"
"""The attribute of the module that holds its port."""

Later = Callable[[Tensor], None]
"""Takes the gradient of a value that was handed over before."""

Taker = Callable[..., Later | None]
"""Takes a value, and whether its gradient comes later; or the arguments of a call."""


@dataclass(slots=True)
class Switch:
    """Whether the graphs of a probe call its operators; each position has a graph."""

    live: bool = True


@dataclass(frozen=True, slots=True)
class Spec:
    """What of a tap is part of a graph: taps with equal ones may share it.

    `how` is "input", "output" or "call" as in a Tap, or what a probe needs besides: "source"
    and "entry" (of a mixture's rows), "begin" and "end" (of a forward of the model). What is
    not `needed` may be left out of a graph that cannot hold it.
    """

    how: str
    index: int = 0
    keyword: str = ""
    gradient: bool = False
    call: Call | None = None
    needed: bool = True


@dataclass(slots=True)
class Port:
    """The slots of a module: what is handed over, to whom, and whether it is at all."""

    number: Tensor
    specs: list[Spec | None] = field(default_factory=list)
    takers: list[Taker | None] = field(default_factory=list)
    switches: list[Switch | None] = field(default_factory=list)

    def hold(self, spec: Spec, taker: Taker, switch: Switch) -> int:
        """Return the lowest free slot, which from now on is taken."""
        slot = self.specs.index(None) if None in self.specs else len(self.specs)
        self.specs[slot:] = [spec, *self.specs[slot + 1 :]]
        self.takers[slot:] = [taker, *self.takers[slot + 1 :]]
        self.switches[slot:] = [switch, *self.switches[slot + 1 :]]
        return slot

    def release(self, slot: int) -> None:
        """Free a slot."""
        self.specs[slot] = self.takers[slot] = self.switches[slot] = None


PORTS: dict[int, Port] = {}
"""The plugged ports by their number."""

"""What hooks share: the block that is watched, and where its tensors go."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ffn_probe.anatomy import Block, Tap
from ffn_probe.probes.compiled import plug
from ffn_probe.probes.port import Later, Spec, Switch, Taker


@dataclass(slots=True)
class Watched:
    """A block under watch, and what is known of the rows of the call that runs now.

    `labels` are the experts of the rows (the number of experts: none), `expert` the one
    expert of all rows, `entering` the rows that the experts were given. `turn` counts calls.
    """

    block: Block
    labels: Tensor | None = None
    expert: int | None = None
    entering: Tensor | None = None
    turn: int = 0
    fired: dict[str, int] = field(default_factory=dict)  # role -> fires in this window

    def tap_fired(self, role: str) -> None:
        """Count one fire of a tap of the role."""
        self.fired[role] = self.fired.get(role, 0) + 1

    def new_call(self, entering: Tensor | None = None) -> None:
        """Forget the rows of the last call."""
        self.labels, self.expert, self.entering = None, None, entering
        self.turn += 1

    def own_rows(self) -> None:
        """Copy what is kept of the call: a compiled graph may use its memory for others."""
        if self.entering is not None:
            self.entering = self.entering.clone()
        if self.labels is not None:
            self.labels = self.labels.clone()


def recomputing() -> bool:
    """Return whether this forward runs inside a backward (activation checkpointing)."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1


Receive = Callable[..., Later | None]
"""Takes (watched, tap, tensor); with `later`, it returns what takes the gradient."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """How the taps of one probe are connected: to what, when, and until when.

    They rest while `awake` is false; graphs of torch.compile hand nothing over while `switch`
    is off, and gradients when `gradients` is set. Everything is undone when `stack` closes.
    """

    receive: Receive
    awake: Callable[[], bool]
    stack: ExitStack
    switch: Switch
    gradients: bool = False
    roles: frozenset[str] | None = None  # the wanted ones; None: all

    def wants(self, found: Iterable[tuple[Watched, Tap]]) -> bool:
        """Return whether one of the taps is of a role that is wanted."""
        return self.roles is None or any(tap.role in self.roles for _, tap in found)

    def taker(self, found: Iterable[tuple[Watched, Tap]]) -> Taker:
        """Return what takes a tensor of these taps from a graph."""
        taps = tuple(found)

        def take(value: Tensor, later: bool = False) -> Later | None:  # noqa: FBT001, FBT002
            if not self.awake():
                return None
            whole = [self.receive(item, tap, value, later=later) for item, tap in taps]
            hooks = [hook for hook in whole if hook is not None]

            def take_gradient(gradient: Tensor) -> None:
                for hook in hooks:
                    hook(gradient)

            return take_gradient if hooks else None

        return take

    def plug(self, module: nn.Module, spec: Spec, take: Taker) -> int:
        """Return the slot of the module from which `take` is handed what the spec says."""
        return plug(module, spec, take, self.switch, self.stack)

    def hook_before(self, module: nn.Module, slot: int, hook: Callable[..., Any]) -> None:
        """Call `hook` with the module, its arguments and its keywords before every forward."""
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        held = _registers(module, "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
        self.stack.callback(_named(handle, slot, held).remove)

    def hook_after(
        self, module: nn.Module, slot: int, hook: Callable[..., Any], *, always: bool = False
    ) -> None:
        """Call `hook` with the module, its arguments and its output after every forward."""
        handle = module.register_forward_hook(hook, always_call=always)
        held = _registers(module, "_forward_hooks", "_forward_hooks_always_called")
        self.stack.callback(_named(handle, slot, held).remove)


def _registers(module: nn.Module, *names: str) -> tuple[dict[int, Any], ...]:
    return tuple(getattr(module, name) for name in names)


def _named(
    handle: RemovableHandle, slot: int, held: tuple[dict[int, Any], ...]
) -> RemovableHandle:
    """Name a hook after its slot: a graph is guarded by the names of the hooks in it.

    The names that torch gives count up, so that no two layers, and no two probes, could share
    a graph.
    """
    name = -1 - slot
    for hooks in held:
        if handle.id in hooks:
            hooks[name] = hooks.pop(handle.id)
    handle.id = name
    return handle

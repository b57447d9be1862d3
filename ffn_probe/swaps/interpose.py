"""Stand between a model and the tensors of its roles: look at them, or put others in.

`interposed` wraps the forward of the modules that taps name, while a with statement lasts.
Unlike a hook a wrapper is innermost: what a probe or `scan` sees is what was put in. On
leaving, also after an exception, every module has the forward and the hooks of before.
Read and write a tensor in one `interposed`: of two nested ones, which sees what the other put
in depends on how the tensor is tapped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ffn_probe.anatomy import Block, Call, Tap
from ffn_probe.discover.trail import call_trail, function_name
from ffn_probe.errors import AttachError

Touch = Callable[[Block, Tap, Tensor], Tensor | None]
"""What is called with a role's tensor, [..., channels]; None leaves it as it is."""

_PARTS = {
    "first": lambda half: slice(0, half),
    "second": lambda half: slice(half, None),
    "even": lambda half: slice(0, None, 2),  # noqa: ARG005
    "odd": lambda half: slice(1, None, 2),  # noqa: ARG005
}
_Entry = tuple[Block, Tap]


@contextmanager
def interposed(model: nn.Module, entries: Iterable[_Entry], touch: Touch) -> Iterator[None]:
    """Call `touch(block, tap, value)` whenever a tap's tensor passes, while the body runs.

    Args:
        model: the model; its parameters, buffers and modes are not changed.
        entries: pairs of a block and a tap of it, see `writers` and `readers`.
        touch: gets the tap's part of the tensor with the channels last; a tensor of the same
            shape that it returns takes the place of that part.

    Raises:
        AttachError: a tap names a module that the model does not have.
    """
    with ExitStack() as stack:
        interpose(model, entries, touch, stack)
        yield


def interpose(
    model: nn.Module, entries: Iterable[_Entry], touch: Touch, stack: ExitStack
) -> None:
    """Do as `interposed` until `stack` is closed; nothing is changed when it raises."""
    modules = dict(model.named_modules(remove_duplicate=False))
    by_module: dict[int, tuple[nn.Module, list[_Entry]]] = {}
    for block, tap in entries:
        if tap.path not in modules:
            raise AttachError(
                f"tap {tap.role!r} of {block.name!r} reads module {tap.path!r}, which the "
                "model does not have; run discover on this model"
            )
        module = modules[tap.path]
        by_module.setdefault(id(module), (module, []))[1].append((block, tap))
    with ExitStack() as undo:
        for module, found in by_module.values():
            _wrap(module, found, touch, undo)
        stack.push(undo.pop_all())


def readers(block: Block, roles: Iterable[str] | None = None) -> tuple[_Entry, ...]:
    """Return where the roles of a block (None: all) are seen."""
    wanted = None if roles is None else set(roles)
    return tuple((block, t) for t in block.taps if wanted is None or t.role in wanted)


def writers(block: Block, role: str) -> tuple[_Entry, ...]:
    """Return where a tensor put in for `role` reaches all that read it.

    `normed` is written at the norm's output, or where there is none at the input of every
    projection that reads it; `product` is where the activation's result or gate times value
    stands.
    """
    if role == "product":
        return tuple((block, tap) for tap in block.products)
    taps = tuple(t for t in block.taps if t.role == role)
    if role != "normed" or not taps:
        return tuple((block, tap) for tap in taps)
    if block.norm.module is not None:
        return ((block, Tap(role, "output", block.norm.module, axis=taps[0].axis)),)
    if all(tap.how != "input" for tap in taps):
        return tuple((block, tap) for tap in taps)
    found = list(taps)
    up = block.projections.get("up")
    if up is not None and all(tap.path != up.path for tap in taps):
        found.append(replace(taps[0], path=up.path))
    return tuple((block, tap) for tap in found)


# ---- one module -------------------------------------------------------------------------


def _wrap(module: nn.Module, found: list[_Entry], touch: Touch, undo: ExitStack) -> None:
    before = [e for e in found if e[1].how == "input"]
    after = [e for e in found if e[1].how == "output"]
    calls: dict[Call, list[_Entry]] = {}
    for block, tap in found:
        if tap.how == "call" and tap.call is not None:
            calls.setdefault(tap.call, []).append((block, tap))
    inner = vars(module).get("forward", type(module).forward)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given, named = list(args), dict(kwargs)
        for block, tap in before:
            _touch_input(block, tap, given, named, touch)
        call = inner if isinstance(inner, MethodType) else MethodType(inner, self)
        if calls:
            with _Calls(calls, touch):
                output = call(*given, **named)
        else:
            output = call(*given, **named)
        for block, tap in after:
            output = _touched_output(output, block, tap, touch)
        return output

    # A hook that does nothing turns off the fused fast path that calls no submodule.
    undo.callback(module.register_forward_pre_hook(_nothing).remove)
    undo.callback(_restore, module, vars(module).get("forward"))
    module.forward = MethodType(forward, module)


def _nothing(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Be there."""


def _restore(module: nn.Module, old: Any) -> None:
    if old is None:
        vars(module).pop("forward", None)
    else:
        module.forward = old


def _touch_input(
    block: Block, tap: Tap, args: list[Any], kwargs: dict[str, Any], touch: Touch
) -> None:
    held: Any = kwargs if tap.keyword else args
    key: Any = tap.keyword or tap.index
    there = key in kwargs if tap.keyword else tap.index < len(args)
    if there and isinstance(held[key], Tensor):
        held[key] = _touched(held[key], block, tap, touch)


def _touched_output(output: Any, block: Block, tap: Tap, touch: Touch) -> Any:
    if isinstance(output, Tensor):
        return _touched(output, block, tap, touch)
    if isinstance(output, Mapping):
        name = list(output)[tap.index] if tap.index < len(output) else None
        if name is not None and isinstance(output[name], Tensor):
            new = _touched(output[name], block, tap, touch)
            if new is not output[name]:
                return type(output)({**output, name: new})  # type: ignore[call-arg]
        return output
    if isinstance(output, tuple | list) and tap.index < len(output):
        old = output[tap.index]
        new = _touched(old, block, tap, touch) if isinstance(old, Tensor) else old
        if new is not old:
            items = [*output[: tap.index], new, *output[tap.index + 1 :]]
            named = hasattr(output, "_fields")
            return type(output)(*items) if named else type(output)(items)
    return output


def _touched(whole: Tensor, block: Block, tap: Tap, touch: Touch) -> Tensor:
    """Return `whole` with the tap's part replaced by what `touch` made of it."""
    last = tap.axis in {-1, whole.dim() - 1}
    moved = whole if last else whole.movedim(tap.axis, -1)
    part = _PARTS.get(tap.part)
    where = (..., part(moved.shape[-1] // 2) if part else slice(None))  # type: ignore[no-untyped-call]
    new = touch(block, tap, moved[where] if part else moved)
    if new is None:
        return whole
    if part:
        joined = moved.clone()
        joined[where] = new.to(joined.dtype)
        new = joined
    return (new if last else new.movedim(-1, tap.axis)).to(whole.dtype)


class _Calls(TorchFunctionMode):
    """Hands over the results of calls, and returns what came back for them."""

    def __init__(self, taps: Mapping[Call, list[_Entry]], touch: Touch) -> None:
        super().__init__()
        self.taps = taps
        self.touch = touch
        self.names = {call.function for call in taps}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = function_name(func)
        if name not in self.names:
            return result
        for block, tap in self.taps.get(Call(name, call_trail()), ()):
            if tap.item >= 0:
                items = list(result)
                items[tap.item] = _touched(items[tap.item], block, tap, self.touch)
                result = tuple(items)
            elif isinstance(result, Tensor):
                result = _touched(result, block, tap, self.touch)
        return result


__all__ = ["Touch", "interpose", "interposed", "readers", "writers"]

"""Stand between a model and the tensors of its roles: look at them, or put others in.

`interposed` takes the place of the forward of the modules that taps name, while a with
statement lasts. What it puts in is what a probe or `scan` sees. On leaving, also after an
exception, every module has the forward and the hooks of before. Several on one module are asked
in the order in which they were entered: a later one gets, and may replace, what an earlier one
put in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ffn_probe.anatomy import Block, Call, Tap
from ffn_probe.discover.operations import in_place
from ffn_probe.discover.trace import put_in
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
            _stand_in(module, found, touch, undo)
        stack.push(undo.pop_all())


def readers(block: Block, roles: Iterable[str] | None = None) -> tuple[_Entry, ...]:
    """Return where the roles of a block (None: all) are seen."""
    wanted = None if roles is None else set(roles)
    return tuple((block, t) for t in block.taps if wanted is None or t.role in wanted)


def inputs(block: Block) -> tuple[_Entry, ...]:
    """Return where the block's own projections read the norm; what else reads it stays.

    Of a mixture, whose router reads it too, as of what is no module's input: `writers`.
    """
    taps = [t for t in block.taps if t.role == "normed"]
    if not taps or any(t.how != "input" for t in taps) or block.experts:
        return writers(block, "normed")
    up = block.projections.get("up")
    if up is not None and all(t.path != up.path for t in taps):
        taps.append(replace(taps[0], path=up.path))
    return tuple((block, t) for t in taps)


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


@dataclass(slots=True, eq=False)
class _Layer:
    """What one `interposed` asks of one module."""

    entries: list[_Entry]
    touch: Touch

    def at(self, how: str) -> list[_Entry]:
        return [entry for entry in self.entries if entry[1].how == how]


@dataclass(slots=True, eq=False)
class _Interposer:
    """A module's forward while somebody stands between; a copied module gets its own.

    Hook dictionaries are what a replaced module shares with its stand-in, `layers` likewise.
    """

    module: nn.Module
    own: Any  # the forward in the module's own dictionary of before, None: its class's
    layers: list[_Layer]
    hook: RemovableHandle | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.own or MethodType(type(self.module).forward, self.module)
        layers = tuple(self.layers)
        with _watching(layers):
            output = inner(*args, **kwargs)
        for k, layer in enumerate(layers):
            for block, tap in layer.at("output"):
                with _watching(layers[k + 1 :]):
                    output = _touched_output(output, block, tap, layer.touch)
        return output


def _stand_in(module: nn.Module, found: list[_Entry], touch: Touch, undo: ExitStack) -> None:
    layer = _Layer(found, touch)
    standing = vars(module).get("forward")
    if not isinstance(standing, _Interposer):
        # The hook also turns off the fused fast path that calls no submodule. It is the first:
        # what it puts in is what the other hooks see.
        hook = module.register_forward_pre_hook(_enter, with_kwargs=True, prepend=True)
        standing = _Interposer(module, standing, [], hook)
        module.forward = standing
    standing.layers.append(layer)
    undo.callback(_leave, module, standing, layer)


def is_standing_in(module: nn.Module) -> bool:
    """Return whether something stands between this module and what it is given or gives."""
    return isinstance(vars(module).get("forward"), _Interposer)


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Let what stands between `old` and its tensors stand before `new`, which replaces it.

    The two must share the dictionaries of their hooks.
    """
    standing = vars(old).get("forward")
    if isinstance(standing, _Interposer):
        new.forward = _Interposer(new, vars(new).get("forward"), standing.layers)


def _leave(module: nn.Module, standing: _Interposer, layer: _Layer) -> None:
    """Take one layer away; the last one gives the module its own forward back."""
    standing.layers.remove(layer)
    if standing.layers:
        return
    if standing.hook is not None:
        standing.hook.remove()
    if vars(module).get("forward") is not standing:
        return  # somebody wrapped it since; what is left inside asks nobody
    if standing.own is None:
        vars(module).pop("forward")
    else:
        module.forward = standing.own


def _enter(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Touch what enters a module that somebody stands in front of."""
    standing = vars(module).get("forward")
    layers = tuple(standing.layers) if isinstance(standing, _Interposer) else ()
    if not any(layer.at("input") for layer in layers):
        return None
    given, named = list(args), dict(kwargs)
    for k, layer in enumerate(layers):
        for block, tap in layer.at("input"):
            with _watching(layers[k + 1 :]):
                _touch_input(block, tap, given, named, layer.touch)
    put_in(tuple(given), named)
    return tuple(given), named


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
    moved = new if last else new.movedim(-1, tap.axis)
    return moved if moved.dtype == whole.dtype else moved.to(whole.dtype)


def _watching(layers: tuple[_Layer, ...]) -> AbstractContextManager[Any]:
    """Return a context in which these layers are asked about the calls that they name."""
    asked = any(layer.at("call") for layer in layers)
    return _Calls(layers) if asked else nullcontext()


class _Calls(TorchFunctionMode):
    """Hands over the results of calls, and returns what came back for them.

    What one layer calls to make its tensor is seen by the layers after it.
    """

    def __init__(self, layers: tuple[_Layer, ...]) -> None:
        super().__init__()
        self.layers = layers
        self.taps: dict[Call, list[tuple[int, _Entry]]] = {}
        for k, layer in enumerate(layers):
            for entry in layer.at("call"):
                if entry[1].call is not None:
                    self.taps.setdefault(entry[1].call, []).append((k, entry))
        self.names = {call.function for call in self.taps}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = function_name(func)
        found = self.taps.get(Call(name, call_trail()), ()) if name in self.names else ()
        # What a function changed in place is read where it was, not from what it returned.
        changed = args[0] if found and in_place(name) and args else None
        made = result if changed is None else changed
        for k, entry in found:
            with _watching(self.layers[k + 1 :]):
                made = self._asked(made, *entry, self.layers[k].touch)
        if changed is None:
            return made
        if made is not changed:
            changed.copy_(made)
        return result

    def _asked(self, result: Any, block: Block, tap: Tap, touch: Touch) -> Any:
        if tap.item >= 0:
            items = list(result)
            items[tap.item] = _touched(items[tap.item], block, tap, touch)
            return tuple(items)
        return _touched(result, block, tap, touch) if isinstance(result, Tensor) else result


__all__ = [
    "Touch", "carry_over", "inputs", "interpose", "interposed", "is_standing_in", "readers",
    "writers",
]  # fmt: skip

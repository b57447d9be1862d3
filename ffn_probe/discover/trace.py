"""The dataflow of one real forward pass: every torch function, who fed it, which module ran it.

`trace(model, example)` runs the model once, in evaluation mode and without gradients, and
returns a Graph. Parameters, modes, buffers and random generators are as before afterwards.
"""

import sys
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode

from ffn_probe.discover.calling import (
    call_arguments,
    check_readable,
    describe,
    undisturbed,
)
from ffn_probe.discover.operations import in_place, plain
from ffn_probe.discover.trail import call_trail, function_name
from ffn_probe.errors import ExampleError

VALUE_BUDGET = 2 << 30
"""Bytes of intermediate values kept alive while tracing; the oldest are dropped first."""

_APPLY = vars(torch.autograd.Function)["apply"].__func__.__code__
_CALL = nn.Module._call_impl.__code__


_TAKE_A_FORM = frozenset({"reshape_as", "view_as", "expand_as", "type_as"})
"""Functions whose second tensor gives its shape or dtype, not its values."""


class Node:
    """One tensor of the pass: a parameter, an input, or the result of a function."""

    __slots__ = (
        "args", "code", "consumers", "data", "dtype", "floats", "func", "index", "inputs_of",
        "item", "kind", "kwargs", "module", "name", "op", "outputs_of", "parents", "picked_by",
        "shape", "trail", "value", "weights",
    )  # fmt: skip

    def __init__(self, index: int, kind: str, value: Tensor) -> None:
        self.index = index
        self.kind = kind  # "param", "input", "op", "item", "unseen"
        self.value: Tensor | None = value
        self.shape = tuple(value.shape)
        self.dtype = value.dtype
        self.name = ""
        self.op = ""
        self.func: Callable[..., Any] | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.parents: tuple[Node, ...] = ()
        self.consumers: list[Node] = []
        self.data = kind in {"input", "unseen"}  # depends on the input of the model
        self.weights: frozenset[str] = frozenset()  # parameters it is made of, when not data
        self.item = -1
        self.module: str = ""
        self.trail: tuple[str, ...] = ()
        self.code = ""
        self.inputs_of: list[tuple[str, int, str]] = []
        self.outputs_of: list[tuple[str, int]] = []
        self.floats = self.data and value.dtype.is_floating_point  # made of floating data
        self.picked_by: Node | None = None  # the index that chose these rows of a parameter

    def __repr__(self) -> str:
        return (
            f"<{self.index} {self.kind} {self.op or self.name} {self.shape} in {self.module}>"
        )


@dataclass(slots=True)
class Visit:
    """One call of a module: what went in, what came out, which functions ran inside."""

    path: str
    ordinal: int
    inputs: list[tuple[int, str, Node]] = field(default_factory=list)
    outputs: list[tuple[int, Node]] = field(default_factory=list)
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class Graph:
    """All nodes in the order of execution, and all module calls."""

    nodes: list[Node]
    visits: list[Visit]
    module_calls: dict[str, int]

    def visits_of(self, path: str) -> Iterator[Visit]:
        """Return the calls of one module."""
        return (visit for visit in self.visits if visit.path == path)


class _Recorder(TorchFunctionMode):
    """Turns every torch function into a node."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.by_id: dict[int, Node] = {}
        self.alive: deque[Node] = deque()
        self.bytes = 0
        self.stack: list[Visit] = []
        self.visits: list[Visit] = []
        self.module_calls: dict[str, int] = {}
        self.paths = {id(m): name for name, m in model.named_modules(remove_duplicate=True)}
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            node = self._new("param", value)
            node.name = name
            node.data = False
            node.weights = frozenset({name})
        for name, value in _attributes(model):
            if id(value) not in self.by_id:
                node = self._new("param", value)
                node.name, node.weights = name, frozenset({name})

    # Nodes

    def _new(self, kind: str, value: Tensor) -> Node:
        node = Node(len(self.nodes), kind, value)
        self.nodes.append(node)
        self.by_id[id(value)] = node
        if kind != "param":
            self._keep(node, value)
        return node

    def _keep(self, node: Node, value: Tensor) -> None:
        # A value that is alive keeps its id; what is dropped here may be used again.
        self.alive.append(node)
        self.bytes += value.numel() * value.element_size()
        while self.bytes > VALUE_BUDGET and len(self.alive) > 64:
            old = self.alive.popleft()
            if old.value is not None:
                self.bytes -= old.value.numel() * old.value.element_size()
                if self.by_id.get(id(old.value)) is old and sys.getrefcount(old.value) <= 3:
                    del self.by_id[id(old.value)]
                elif self.by_id.get(id(old.value)) is old:
                    weakref.finalize(old.value, self.by_id.pop, id(old.value), None)
                old.value = None

    def node_of(self, value: Tensor) -> Node:
        node = self.by_id.get(id(value))
        if node is None or (node.value is not None and node.value is not value):
            node = self._new("unseen", value)
            node.module = self.stack[-1].path if self.stack else ""
        return node

    def feed(self, values: Any, name: str = "example") -> None:
        """Mark every tensor inside `values` as an input of the model."""
        for value in _tensors(values):
            if id(value) not in self.by_id:
                node = self._new("input", value)
                node.name = name

    # Functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        named = function_name(func)
        known = {id(t): self.node_of(t) for t in _tensors((args, kwargs))}
        writes = in_place(named) or kwargs.get("inplace") is True
        before = args[0] if writes and args and isinstance(args[0], Tensor) else None
        if before is not None:
            self._freeze(known[id(before)])
        result = func(*args, **kwargs)
        if before is not None and named == "__setitem__":
            self._op(func, named, args, kwargs, before, known)
        else:
            self._results(func, named, args, kwargs, result, known)
        return result

    def _freeze(self, node: Node) -> None:
        """Keep the value that an in-place function is about to overwrite."""
        if node.kind != "param" and node.value is not None:
            self.by_id[id(node.value)] = node
            node.value = node.value.detach().clone()

    def _results(
        self,
        func: Callable[..., Any],
        named: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        known: dict[int, Node],
    ) -> None:
        if isinstance(result, Tensor):
            self._op(func, named, args, kwargs, result, known)
        elif isinstance(result, tuple | list):
            tensors = [(i, t) for i, t in enumerate(result) if isinstance(t, Tensor)]
            if not tensors:
                return
            whole = self._op(func, named, args, kwargs, tensors[0][1], known)
            for i, tensor in tensors:
                piece = self._new("item", tensor)
                self._link(piece, "item_of", (whole, i), (whole,))
                piece.item = i
                piece.trail = whole.trail

    def _op(
        self,
        func: Callable[..., Any],
        named: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
        known: dict[int, Node],
    ) -> Node:
        node = self._new("op", result)
        swapped = _swap(args, known)
        node.func = func
        if named in _TAKE_A_FORM:
            known = {id(args[0]): known[id(args[0])]}
        node.kwargs = _swap({k: v for k, v in kwargs.items() if k != "inplace"}, known)
        self._link(node, named, swapped, tuple(known.values()))
        node.trail = call_trail()
        node.code = "custom" if _inside_custom_function() else ""
        return node

    def _link(
        self, node: Node, named: str, args: tuple[Any, ...], parents: tuple[Node, ...]
    ) -> None:
        node.op = named
        node.args = args
        node.parents = parents
        node.data = any(p.data for p in parents)
        node.floats = node.dtype.is_floating_point or any(p.floats for p in parents if p.data)
        if _is_pick(named, parents):
            # Rows of a parameter chosen by the router: a weight, not an activation.
            node.data = False
            node.picked_by = next(p for p in parents if p.data)
        if not node.data:
            node.weights = (
                frozenset().union(*(p.weights for p in parents)) if parents else frozenset()
            )
        for parent in parents:
            parent.consumers.append(node)
        node.module = self.stack[-1].path if self.stack else ""

    # Modules

    def enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        path = self.paths.get(id(module))
        if path is None:
            path = (
                self.stack[-1].path + "." if self.stack else ""
            ) + f"<{type(module).__name__}>"
        ordinal = self.module_calls.get(path, 0)
        self.module_calls[path] = ordinal + 1
        visit = Visit(path, ordinal, start=len(self.nodes))
        self._feed_visit(visit, args, kwargs)
        self.stack.append(visit)
        self.visits.append(visit)

    def _feed_visit(
        self, visit: Visit, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        for i, arg in enumerate(args):
            if isinstance(arg, Tensor):
                node = self.node_of(arg)
                node.inputs_of.append((visit.path, i, ""))
                visit.inputs.append((i, "", node))
        for key, arg in kwargs.items():
            if isinstance(arg, Tensor):
                node = self.node_of(arg)
                node.inputs_of.append((visit.path, -1, key))
                visit.inputs.append((-1, key, node))

    def enter_with(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take what a hook puts in for what the module was given."""
        visit = self.stack[-1]
        for index, key, node in visit.inputs:
            node.inputs_of.remove((visit.path, index, key))
        visit.inputs.clear()
        self._feed_visit(visit, args, kwargs)

    def leave(self, output: Any) -> None:
        visit = self.stack.pop()
        outputs = output if isinstance(output, tuple | list) else (output,)
        if isinstance(output, Mapping):
            outputs = tuple(output.values())
        for i, value in enumerate(outputs):
            if isinstance(value, Tensor):
                node = self.by_id.get(id(value)) or self._new("unseen", value)
                if node.value is not None and node.value is not value:
                    node = self._new("unseen", value)
                if node.kind == "unseen" and not node.module:
                    node.module = visit.path
                node.outputs_of.append((visit.path, i))
                visit.outputs.append((i, node))
        visit.end = len(self.nodes)


def trace(model: nn.Module, example: Any) -> Graph:
    """Run `model` on `example` once and return what happened.

    Args:
        model: any nn.Module whose parameters are real tensors.
        example: a mapping for model(**example), a tuple or list for model(*example), or a
            tensor for model(example).

    Raises:
        ModelError: a parameter is on the meta device, a weight is packed in a quantized
            module, or the model is scripted.
        ExampleError: the model raised on the example.
    """
    check_readable(model)
    recorder = _Recorder(model)
    args, kwargs = call_arguments(example)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)
        stack.enter_context(undisturbed(model))
        stack.enter_context(_module_hooks(recorder))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        recorder.feed((args, kwargs))
        with recorder:
            try:
                model(*args, **kwargs)
            except Exception as error:
                message = (
                    f"the model {type(model).__name__} rejected the example "
                    f"({describe(example)}): {type(error).__name__}: {error}. Pass a mapping "
                    "for model(**example) or a tuple for model(*example)."
                )
                raise ExampleError(message) from error
    return Graph(recorder.nodes, recorder.visits, recorder.module_calls)


def tracing() -> bool:
    """Return whether a pass is being traced now."""
    return bool(_recorders())


def put_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Tell a trace that may run what a hook gives to the module that begins."""
    for recorder in _recorders():
        with torch._C.DisableTorchFunction():
            recorder.enter_with(args, kwargs)


def _recorders() -> list[_Recorder]:
    modes = torch.overrides._get_current_function_mode_stack  # noqa: SLF001 - none is public
    stack = modes()  # type: ignore[no-untyped-call]
    return [mode for mode in stack if isinstance(mode, _Recorder)]


@contextmanager
def _module_hooks(recorder: _Recorder) -> Iterator[None]:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch._C.DisableTorchFunction():
            recorder.enter(module, args, kwargs)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        with torch._C.DisableTorchFunction():
            recorder.leave(output)

    first = nn_module.register_module_forward_pre_hook(_positional(enter))
    last = nn_module.register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        first.remove()
        last.remove()


def _positional(enter: Callable[..., None]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    # Global pre-hooks are not given keyword arguments: they are read from the frame.
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_name not in {"inner", "_call_impl"}:
            frame = frame.f_back  # type: ignore[assignment]
        kwargs = frame.f_locals.get("kwargs", {}) if frame is not None else {}
        enter(module, args, kwargs)

    return hook


def _attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that modules keep as plain attributes: caches, unregistered weights."""
    for path, module in model.named_modules():
        for key, held in vars(module).items():
            if key not in {"_parameters", "_buffers", "_modules"}:
                for value in _tensors(held):
                    yield f"{path}.{key}".lstrip("."), value


def _is_pick(named: str, parents: tuple[Node, ...]) -> bool:
    if plain(named) not in {"__getitem__", "index_select", "gather", "take_along_dim"}:
        return False
    data = [p for p in parents if p.data]
    return (
        bool(data)
        and not parents[0].data
        and bool(parents[0].weights)
        and (all(p.floats for p in data) or len(parents[0].shape) >= 3)
    )


def _inside_custom_function() -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL:
            return False
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


def _swap(value: Any, known: dict[int, Node]) -> Any:
    """Return `value` with its tensors replaced by their nodes."""
    if isinstance(value, Tensor):
        return known[id(value)]
    if isinstance(value, tuple | list):
        return (
            type(value)(_swap(v, known) for v in value)
            if type(value) in {tuple, list}
            else tuple(_swap(v, known) for v in value)
        )
    if isinstance(value, dict):
        return {k: _swap(v, known) for k, v in value.items()}
    return value

"""A forward whose inner calls are handed over, written anew from its own source.

torch.compile sees no function modes of ours, so what is called inside a forward is handed
over by the code itself: the source of the function is parsed, the expressions at the code
positions of the taps are wrapped, and the result is compiled with the globals and the
closure of the original. What it computes is the same.
"""

import ast
import copy
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePath
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import nn

from ffn_probe.anatomy import Call

PORT = "__ffn_probe__"
"""The keyword that a rewritten function takes in addition: the port of the module."""

_SEEN, _CALLED = "__ffn_probe_seen__", "__ffn_probe_called__"
_FUTURES = 0x1FFFF000  # flags of `from __future__` statements in a code object


class NotRewritable(Exception):
    """Why the source of a function could not be found or changed."""


@dataclass(frozen=True, slots=True)
class Place:
    """A call inside a forward whose result goes to a slot; with its arguments for `source`."""

    call: Call
    slot: int
    item: int = -1
    source: bool = False


@dataclass(slots=True)
class _Inner:
    """A function that is called at an expression, to be replaced by its rewritten self."""

    original: FunctionType
    new: FunctionType
    method: bool
    name: str


def rewritten(
    function: Callable[..., Any],
    kind: type[nn.Module],
    places: tuple[Place, ...],
    *,
    seen: Callable[..., Any],
    called: Callable[..., Any],
) -> FunctionType:
    """Return the function with the places handed to `seen` and `called`.

    It takes the keyword `__ffn_probe__`, which they are given.

    Raises:
        NotRewritable: its source, or that of a function on the way, is not there.
    """
    if not isinstance(function, FunctionType):
        raise NotRewritable(f"{function!r} is not written in Python")
    outer = {_site(place.call.trail[-1]) for place in places}
    if outer != {_name(function.__code__)}:
        raise NotRewritable(f"{', '.join(sorted(outer))} is wrapped by another function")
    return _Rewriter(kind, {_SEEN: seen, _CALLED: called}).function(function, places)


class _Rewriter:
    def __init__(self, kind: type[nn.Module], names: dict[str, Callable[..., Any]]) -> None:
        self.kind = kind
        self.names = names

    def function(self, old: FunctionType, places: tuple[Place, ...]) -> FunctionType:
        """Return the function with the places wrapped; trails end in it."""
        tree = _definition(old.__code__)
        lifted = [self._lifted(old, tree, place) for place in places]
        change = _Change(tree)
        names: dict[str, Any] = dict(self.names)
        for place in lifted:
            if len(place.call.trail) == 1:
                node = _node(tree, old.__code__, place.call.trail[0])
                for same in (node, *_elsewhere(tree, node)):
                    change.leaves.setdefault(id(same), []).append(place)
        for position in sorted({p.call.trail[-1] for p in lifted if len(p.call.trail) > 1}):
            below = tuple(_within(p) for p in lifted if _passes(p, position))
            inner = self._inner(old, below, len(names))
            change.inner[id(_node(tree, old.__code__, position))] = inner
            names[inner.name], names[f"{inner.name}was__"] = inner.new, inner.original
        return _built(old, change, names)

    def _inner(self, old: FunctionType, below: tuple[Place, ...], ordinal: int) -> _Inner:
        original = self._found(old, _site(below[0].call.trail[-1]))
        owner = getattr(self.kind, original.__name__, None)
        new = self.function(original, below)
        return _Inner(original, new, owner is original, f"__ffn_probe_inner_{ordinal}__")

    def _found(self, old: FunctionType, site: str) -> FunctionType:
        for function in _nearby(old, self.kind, site):
            if isinstance(function, FunctionType) and _name(function.__code__) == site:
                return function
        raise NotRewritable(f"the function {site} was not found from {_name(old.__code__)}")

    def _lifted(self, old: FunctionType, tree: ast.FunctionDef, place: Place) -> Place:
        """Return a place that is all that a called function returns as the call of it.

        Which of several `return` statements runs may differ in a compiled graph.
        """
        trail = place.call.trail
        if len(trail) != 2:
            return place
        inner = self._found(old, _site(trail[0]))
        below = _definition(inner.__code__)
        node, call = _node(below, inner.__code__, trail[0]), _node(tree, old.__code__, trail[1])
        returned = any(isinstance(n, ast.Return) and n.value is node for n in ast.walk(below))
        alike = not place.source or _arguments(node) == _arguments(call)
        if not returned or not alike:
            return place
        return replace(place, call=Call(place.call.function, trail[1:]))


class _Change(ast.NodeTransformer):
    """Wraps the expressions of the places in one definition."""

    def __init__(self, tree: ast.FunctionDef) -> None:
        self.tree = tree
        self.leaves: dict[int, list[Place]] = {}
        self.inner: dict[int, _Inner] = {}

    def visit(self, node: ast.AST) -> Any:
        leaves, inner = self.leaves.get(id(node), []), self.inner.get(id(node))
        result: Any = self.generic_visit(node)
        if inner is not None:
            result = _into(result, inner)
        for place in leaves:
            if place.source:
                result = _sourced(result, place)
        for place in leaves:
            if not place.source:
                result = _wrapped(result, place)
        return result


def _wrapped(node: Any, place: Place) -> Any:
    if isinstance(node, ast.AugAssign):
        if not isinstance(node.target, ast.Name):
            raise NotRewritable(f"line {node.lineno} changes something in place")
        value = _wrapped(ast.Name(node.target.id, ast.Load()), place)
        return [node, ast.Assign([ast.Name(node.target.id, ast.Store())], value)]
    if not isinstance(node, ast.expr):
        raise NotRewritable(f"line {getattr(node, 'lineno', '?')} is no expression")
    numbers = [ast.Constant(place.slot), ast.Constant(place.item)]
    return _invoke(_SEEN, [node, _load(PORT), *numbers])


def _sourced(node: Any, place: Place) -> Any:
    if not isinstance(node, ast.Call):
        raise NotRewritable(f"line {getattr(node, 'lineno', '?')} is an operator, no call")
    owner: ast.expr = ast.Constant(None)
    if isinstance(node.func, ast.Attribute):
        owner = copy.deepcopy(node.func.value)
        if not all(isinstance(n, ast.Name | ast.Attribute | ast.Load) for n in ast.walk(owner)):
            raise NotRewritable(f"line {node.lineno} calls a method of an expression")
    head = [_load(PORT), ast.Constant(place.slot), node.func, owner]
    return _invoke(_CALLED, [*head, *node.args], node.keywords)


def _into(node: Any, inner: _Inner) -> ast.expr:
    """Return a call of the rewritten function in place of one of the original."""
    if not isinstance(node, ast.Call):
        raise NotRewritable(f"{inner.original.__qualname__} is not called by name")
    keywords = [*copy.deepcopy(node.keywords), ast.keyword(PORT, _load(PORT))]
    if inner.method and isinstance(node.func, ast.Attribute):
        args = [copy.deepcopy(node.func.value), *node.args]
        return _invoke(inner.name, args, keywords)
    new = _invoke(inner.name, copy.deepcopy(node.args), keywords)
    same = ast.Compare(copy.deepcopy(node.func), [ast.Is()], [_load(f"{inner.name}was__")])
    return ast.IfExp(same, new, node)


def _invoke(name: str, args: list[Any], keywords: list[ast.keyword] | None = None) -> ast.Call:
    return ast.Call(_load(name), args, keywords or [])


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _built(old: FunctionType, change: _Change, names: dict[str, Any]) -> FunctionType:
    """Return the changed definition as a function beside the old one."""
    tree = change.visit(change.tree)
    tree.decorator_list, tree.returns = [], None
    arguments = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
    for argument in (*arguments, tree.args.vararg, tree.args.kwarg):
        if argument is not None:
            argument.annotation = None
    tree.args.defaults = [ast.Constant(None) for _ in tree.args.defaults]
    tree.args.kw_defaults = [d and ast.Constant(None) for d in tree.args.kw_defaults]
    tree.args.kwonlyargs.append(ast.arg(PORT))
    tree.args.kw_defaults.append(None)
    cells = dict(zip(old.__code__.co_freevars, old.__closure__ or (), strict=True))
    cells |= {name: CellType(value) for name, value in names.items()}
    code = _compiled(tree, old.__code__, tuple(cells))
    closure = tuple(cells[name] for name in code.co_freevars)
    new = FunctionType(code, old.__globals__, old.__name__, old.__defaults__, closure)
    new.__kwdefaults__ = old.__kwdefaults__
    new.__qualname__ = old.__qualname__
    return new


def _compiled(tree: ast.FunctionDef, like: CodeType, free: tuple[str, ...]) -> CodeType:
    """Return the code of a definition that stands in a function with these variables."""
    inside = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    factory = copy.copy(tree)
    factory.name, factory.args, factory.body = "factory", inside, [tree]
    factory.decorator_list = []
    module = ast.fix_missing_locations(ast.Module([factory], []))
    flags = like.co_flags & _FUTURES
    whole = compile(module, like.co_filename, "exec", flags=flags, dont_inherit=True)
    return _code(_code(whole, "factory"), tree.name)


def _code(within: CodeType, name: str) -> CodeType:
    return next(c for c in within.co_consts if isinstance(c, CodeType) and c.co_name == name)


# Finding


def _site(position: str) -> str:
    return position.rpartition(":")[0]


def _name(code: CodeType) -> str:
    return f"{PurePath(code.co_filename).name}:{code.co_qualname}"


def _within(place: Place) -> Place:
    return replace(place, call=Call(place.call.function, place.call.trail[:-1]))


def _passes(place: Place, position: str) -> bool:
    return len(place.call.trail) > 1 and place.call.trail[-1] == position


def _nearby(old: FunctionType, kind: type[nn.Module], site: str) -> Iterator[Any]:
    """Yield the functions that a function may call under this name, nearest first."""
    filename, _, qualname = site.partition(":")
    for cell in old.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet filled
            continue
    yield getattr(old, "__wrapped__", None)
    last = qualname.rpartition(".")[2]
    yield getattr(kind, last, None)
    yield old.__globals__.get(last)
    for module in list(sys.modules.values()):
        if PurePath(getattr(module, "__file__", None) or "").name == filename:
            value: Any = module
            for part in qualname.split("."):
                value = getattr(value, part, None)
            yield value


@lru_cache(maxsize=64)
def _parsed(filename: str) -> ast.Module:
    source = "".join(linecache.getlines(filename))
    if not source:
        raise NotRewritable(f"the source of {filename} is not there")
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise NotRewritable(f"{filename} cannot be parsed: {error}") from error


def _definition(code: CodeType) -> ast.FunctionDef:
    """Return a copy of the definition that a code object was compiled from."""
    for node in ast.walk(_parsed(code.co_filename)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([d.lineno for d in node.decorator_list], default=node.lineno)
            if first == code.co_firstlineno:
                private = {n for n in code.co_names if n.startswith("__") and n[-2:] != "__"}
                if private:
                    raise NotRewritable(f"{code.co_qualname} has a private {min(private)}")
                return copy.deepcopy(node)
    raise NotRewritable(f"the source of {_name(code)} is not there, or has changed")


def _node(tree: ast.FunctionDef, code: CodeType, position: str) -> ast.AST:
    """Return the expression that was evaluated at a code position."""
    offset = int(position.rpartition(":")[2]) // 2
    lines = list(code.co_positions())
    if offset >= len(lines):
        raise NotRewritable(f"the code of {_name(code)} has changed")
    line, end_line, column, end_column = lines[offset]
    found: ast.AST | None = None
    for node in ast.walk(tree):
        if (getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None)) == (
            end_line,
            end_column,
        ):
            if (node.lineno, node.col_offset) == (line, column):  # type: ignore[attr-defined]
                if not isinstance(node, ast.Expr | ast.keyword):
                    return node
            elif isinstance(node, ast.Call) and found is None:
                found = node  # a method's call may begin at its name
    if found is None:
        raise NotRewritable(f"nothing was found at {position}")
    return found


def _elsewhere(tree: ast.FunctionDef, node: ast.AST) -> list[ast.AST]:
    """Return equal expressions in other `return` statements: only one of them runs."""
    returns = [n for n in ast.walk(tree) if isinstance(n, ast.Return)]
    home = next((r for r in returns if any(n is node for n in ast.walk(r))), None)
    if home is None:
        return []
    text = ast.dump(node)
    return [
        n
        for r in returns
        if r is not home
        for n in ast.walk(r)
        if type(n) is type(node) and ast.dump(n) == text
    ]


def _arguments(node: ast.AST) -> tuple[int, tuple[str | None, ...]] | None:
    if not isinstance(node, ast.Call):
        return None
    return len(node.args), tuple(k.arg for k in node.keywords)

"""Run a recorded piece of the dataflow again on other values, in another precision.

`rebuild(target, given, dtype)` evaluates `target` from the nodes in `given`. Casts are
skipped, so the whole piece is computed in `dtype`; parameters are read, never written.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ffn_probe.discover.operations import CASTS, IDENTITIES, POINTWISE, in_place, plain
from ffn_probe.discover.trace import Node
from ffn_probe.errors import ModelError


class NotRebuildable(ModelError):
    """A value needed for the computation was not kept, or a function cannot run again."""


def rebuild(
    target: Node,
    given: Mapping[Node, Tensor],
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return the value of `target` when the nodes in `given` have the given values.

    Args:
        target: the node to compute.
        given: values that replace those of the pass, in the recorded shapes.
        dtype: the floating dtype of everything computed.

    Raises:
        NotRebuildable: a function of the piece refuses these values.
    """
    if any(c.op == "item_of" for c in target.consumers):
        raise NotRebuildable(f"{target!r} is several tensors")
    memo: dict[Node, Tensor] = {node: _cast(value, dtype) for node, value in given.items()}
    needed = _depends(target, set(given))
    try:
        with torch.no_grad(), torch.autocast(_device(given), enabled=False):
            for node in _order(target, set(given), needed):
                if node not in memo:
                    memo[node] = _evaluate(node, memo, needed, dtype)
    except NotRebuildable:
        raise
    except Exception as error:
        raise NotRebuildable(f"{target!r} cannot be computed again: {error}") from error
    return memo[target]


def _device(given: Mapping[Node, Tensor]) -> str:
    return next((value.device.type for value in given.values()), "cpu")


def _depends(target: Node, given: set[Node]) -> set[Node]:
    """Return the ancestors of `target` (itself included) that depend on `given`."""
    order = _postorder(target, given)
    result = set(given)
    for node in order:
        # Indices (a router's choice) stay as they were: only floating values are computed.
        counts = node.dtype.is_floating_point or node.dtype == torch.bool
        if counts and any(parent in result for parent in node.parents):
            result.add(node)
    return result


def _postorder(target: Node, stop: set[Node]) -> list[Node]:
    lowest = min((node.index for node in stop), default=0)
    seen: set[Node] = set()
    stack = [target]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node not in stop and node.index > lowest:
            stack.extend(node.parents)
    return sorted(seen, key=lambda n: n.index)


def _order(target: Node, given: set[Node], needed: set[Node]) -> list[Node]:
    """Return the nodes to compute, in order: those that lead to `target` through computed ones.

    What only reaches it through an index (a router) keeps its recorded value.
    """
    seen: set[Node] = set()
    stack = [target]
    while stack:
        node = stack.pop()
        if node in seen or node in given:
            continue
        seen.add(node)
        stack.extend(p for p in node.parents if p in needed)
    return sorted(seen, key=lambda n: n.index)


def _evaluate(
    node: Node, memo: dict[Node, Tensor], needed: set[Node], dtype: torch.dtype
) -> Any:
    def value(item: Any) -> Any:
        if isinstance(item, Node):
            if item in memo:
                return memo[item]
            return _constant(item, dtype)
        if isinstance(item, tuple | list):
            return type(item)(value(v) for v in item)
        if isinstance(item, dict):
            return {k: value(v) for k, v in item.items()}
        if isinstance(item, torch.dtype) and item.is_floating_point:
            return dtype
        return item

    if node not in needed:
        return _constant(node, dtype)
    if node.op == "item_of":
        whole, item = node.args
        full = memo.get(whole)
        if full is None or isinstance(full, Tensor):
            full = _function(whole, value)
        return full[item]
    return _function(node, value)


def _function(node: Node, value: Callable[[Any], Any]) -> Any:
    name = plain(node.op)
    args, kwargs = value(node.args), value(node.kwargs)
    if name in CASTS or name in IDENTITIES:
        return args[0]
    if in_place(node.op):
        target = args[0].clone()
        out = _call(node, (target, *args[1:]), kwargs)
        return target if out is None else out
    return _call(node, args, kwargs)


def _call(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.func is None:
        raise NotRebuildable(f"{node!r} has no function")
    return node.func(*args, **kwargs)


def _constant(node: Node, dtype: torch.dtype) -> Tensor:
    if _is_vector_of_weights(node):
        # 1 + w, rounded to the dtype of the pass, is not the gain that was meant.
        return _function(node, lambda item: _of_weights(item, dtype))  # type: ignore[no-any-return]
    if node.value is None:
        raise NotRebuildable(
            f"the value of {node.op or node.name or node.kind} in {node.module!r} was dropped "
            "to save memory; pass a shorter example"
        )
    return _cast(node.value.detach(), dtype)


def _is_vector_of_weights(node: Node) -> bool:
    exact = plain(node.op) in POINTWISE and bool(node.weights) and not in_place(node.op)
    return node.kind == "op" and not node.data and exact and len(node.shape) <= 1


def _of_weights(item: Any, dtype: torch.dtype) -> Any:
    if isinstance(item, Node):
        return _constant(item, dtype)
    if isinstance(item, tuple | list):
        return type(item)(_of_weights(v, dtype) for v in item)
    if isinstance(item, dict):
        return {k: _of_weights(v, dtype) for k, v in item.items()}
    return item


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() and value.dtype != dtype:
        return value.to(dtype)
    return value

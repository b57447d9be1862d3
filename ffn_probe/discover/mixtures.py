"""Experts that are modules of their own, merged into one block."""

import re
from dataclasses import replace
from typing import Any

from torch import nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.layers import container_size, exists
from ffn_probe.discover.trace import Node

_NUMBER = re.compile(r"(?<=[._])\d+(?=$|[._])")


def mixtures(blocks: list[Block], sources: list[Node], model: nn.Module) -> list[Block]:
    """Merge blocks that are siblings in one list and read rows of one tensor."""
    groups: dict[tuple[Any, ...], list[Block]] = {}
    for block, source in zip(blocks, sources, strict=True):
        pattern = _expert_pattern(block)
        key = (id(block),) if pattern is None else (pattern[0], id(source))
        groups.setdefault(key, []).append(block)
    found: list[Block] = []
    for members in groups.values():
        pattern = _expert_pattern(members[0])
        if pattern is None or not _is_mixture(members, pattern[0], model):
            found.extend(members)
        else:
            found.append(_mixture(members, pattern[0], model))
    return found


def _expert_pattern(block: Block) -> tuple[str, int] | None:
    """Return (path with the last number replaced by *, that number), from the down path."""
    path = block.projections["down"].path
    numbers = list(_NUMBER.finditer(path))
    if not numbers or block.experts:
        return None
    last = numbers[-1]
    return path[: last.start()] + "*" + path[last.end() :], int(last.group())


def _is_mixture(members: list[Block], pattern: str, model: nn.Module) -> bool:
    container = pattern.split("*", maxsplit=1)[0].rstrip("._")
    holder = container if exists(model, container) else container.rpartition(".")[0]
    size = container_size(model, holder)
    return len(members) > 1 or (size > 1 and "expert" in holder.rpartition(".")[2])


def _mixture(members: list[Block], pattern: str, model: nn.Module) -> Block:
    first = members[0]
    container = pattern.split("*", maxsplit=1)[0].rstrip("._")
    holder = container if exists(model, container) else container.rpartition(".")[0]
    size = container_size(model, holder)
    number = {id(b): _expert_pattern(b)[1] for b in members}  # type: ignore[index]
    base = min(number.values()) if size == 0 else 0
    taps = [t for t in first.taps if t.role in {"resid"}]
    products: list[Tap] = []
    prefix = first.projections["down"].path
    own = number[id(first)]
    for index in range(base, base + max(size, len(members))):
        for tap in first.taps:
            if tap.role == "resid":
                continue
            path = renumbered(tap.path, prefix, own, index)
            if path is not None and exists(model, path):
                taps.append(replace(tap, path=path, expert=index))
        for tap in first.products:
            path = renumbered(tap.path, prefix, own, index)
            if path is not None and exists(model, path):
                products.append(replace(tap, path=path, expert=index))
    error = max(b.recompute_error for b in members)
    flags = tuple(dict.fromkeys(f for b in members for f in b.flags))
    projections = {
        k: replace(p, path=renumbered(p.path, prefix, own, base) or p.path)
        for k, p in first.projections.items()
    }
    name = holder
    return replace(
        first, name=name, experts=max(size, len(members)), taps=tuple(taps), flags=flags,
        products=tuple(products), recompute_error=error, projections=projections,
    )  # fmt: skip


def renumbered(path: str, down: str, own: int, index: int) -> str | None:
    """Return `path` with expert number `own` (at its place in `down`) replaced by `index`."""
    last = list(_NUMBER.finditer(down))[-1]
    head = down[: last.start()]
    if not path.startswith(head + str(own)):
        return None
    return head + str(index) + path[len(head) + len(str(own)) :]

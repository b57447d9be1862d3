"""Names that are not used twice, and the layer each block belongs to."""

import re
from dataclasses import replace

from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.projections import block_name


def distinct(blocks: list[Block]) -> list[Block]:
    """Give blocks with the same name the path of their down projection."""
    seen: dict[str, int] = {}
    for block in blocks:
        seen[block.name] = seen.get(block.name, 0) + 1
    found: list[Block] = []
    used: set[str] = set()
    for block in blocks:
        name = block.name or block_name([block.projections["down"].path], _EMPTY) or "model"
        if seen[block.name] > 1:
            name = block.projections["down"].path
        while name in used:
            name += "+"
        used.add(name)
        found.append(replace(block, name=name))
    return found


_EMPTY = nn.Module()


def numbered(blocks: list[Block], model: nn.Module) -> list[Block]:
    """Give each block its layer: the index in its stack, stacks one after the other.

    Numbers in a path count layers where they differ between blocks; `layer.1` of a T5 block,
    the same in all, does not.
    """
    values: dict[str, set[int]] = {}
    for block in blocks:
        for prefix, number in _numbers(block.name):
            values.setdefault(prefix, set()).add(number)
    keys: dict[str, list[tuple[int, ...]]] = {}
    places: list[tuple[str, tuple[int, ...]]] = []
    for block in blocks:
        numbers = _numbers(block.name)
        varying = [n for i, (p, n) in enumerate(numbers) if i == 0 or len(values[p]) > 1]
        stack = numbers[0][0] if numbers else ""
        places.append((stack, tuple(varying)))
        keys.setdefault(stack, []).append(tuple(varying))
    layers: dict[tuple[str, tuple[int, ...]], int] = {}
    offset = 0
    for stack, found in keys.items():
        ordered = sorted(set(found))
        flat = all(len(key) == 1 for key in ordered)
        for i, key in enumerate(ordered):
            layers[stack, key] = offset + (key[0] if flat else i)
        size = container_size(model, stack.rpartition(".")[0]) if flat and stack else 0
        offset = max(max(layers.values()) + 1, offset + size)
    return [replace(b, layer=layers[place]) for b, place in zip(blocks, places, strict=True)]


def _numbers(path: str) -> list[tuple[str, int]]:
    """Return (pattern of the path up to a number, the number) for each number in it."""
    found: list[tuple[str, int]] = []
    pieces: list[str] = []
    for piece in path.split("."):
        if piece.isdigit():
            found.append((".".join([*pieces, "*"]), int(piece)))
            pieces.append("*")
        else:
            pieces.append(piece)
    return found


def exists(model: nn.Module, path: str) -> bool:
    """Return whether the model has a submodule of that path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def container_size(model: nn.Module, path: str) -> int:
    """Return how many numbered children the module of that path has."""
    if not exists(model, path):
        return 0
    children = [name for name, _ in model.get_submodule(path).named_children()]
    return len([c for c in children if re.search(r"\d+$", c)])

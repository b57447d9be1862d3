"""`ffn-probe scan`: the blocks of a model, and what was skipped."""

import json
import re
from collections import Counter
from itertools import chain
from math import isfinite
from typing import Any

from rich.table import Table

from ffn_probe.anatomy import Block
from ffn_probe.cli.examples import example_for
from ffn_probe.cli.loading import batches_from, load
from ffn_probe.cli.tables import console, plain, table
from ffn_probe.discover import Scan, scan
from ffn_probe.errors import ExampleError, ModelError
from ffn_probe.probes.attach import check_watchable
from ffn_probe.probes.record import moved

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_ROOMY = 120
"""Columns of a terminal from which the blocks are shown as a table, else as lines."""
_COLUMNS = ("layer", "block", "kind", "layout", "activation", "norm", "d_model", "d_ff",
            "experts", "taps", "error")  # fmt: skip


def print_scan(
    name: str, *, data: str | None, random: bool, dtype: str | None, device: str, as_json: bool
) -> None:
    """Scan the model and print its blocks."""
    model, made = load(name, random=random, dtype=dtype, device=device)
    try:
        found = scan(model, first_batch(model, name, data, made))
    except ExampleError:
        check_watchable(model)  # packed weights are a better reason than what they break
        raise
    if as_json:
        print(json.dumps(as_dict(name, found), indent=1))
    else:
        print_table(found)
    if not found.blocks:
        raise ModelError(f"no FFN in {type(model).__name__} ({name})")


def first_batch(model: Any, name: str, data: str | None, made: object) -> Any:
    """Return an example: the first of the batches, or a random input."""
    example: Any
    if data is None and made is None:
        example = example_for(model)
    else:
        batches, _ = batches_from(data, made, model=name, sequences=1, length=16, limit=1)
        example = next(iter(batches), None)
        if example is None:
            raise ModelError("there are no batches to take an example from")
    device = next((p.device for p in model.parameters()), None)
    return moved(example, device) if device is not None else example


def as_dict(name: str, found: Scan) -> dict[str, Any]:
    """Return a scan in JSON types."""
    return {
        "model": name,
        "blocks": [_finite(block.to_dict()) for block in found.blocks],
        "skipped": [{"path": s.path, "reason": s.reason} for s in found.skipped],
    }


def _finite(block: dict[str, Any]) -> dict[str, Any]:
    """Return the block with null for an error that is not a number: JSON has no infinity."""
    known = isfinite(block["recompute_error"])
    return block if known else block | {"recompute_error": None}


def print_table(found: Scan) -> None:
    """Print the blocks and what was skipped."""
    out = console()
    title = f"{len(found.blocks)} feed-forward blocks"
    if out.width >= _ROOMY:
        out.print(_table(found, title))
    else:
        out.print(title)
        for line in chain.from_iterable(map(_lines, found.blocks)):
            out.print(plain(line), highlight=False, markup=False)
    for roles, blocks in Counter(block.roles for block in found.blocks).items():
        out.print(f"taps of {blocks} blocks: {' '.join(roles)}", highlight=False)
    flags = list(chain.from_iterable((f"{b.name}: {f}" for f in b.flags) for b in found.blocks))
    if flags:
        out.print(f"flagged, not probed unless asked ({len(flags)}):")
        for flag in flags:
            out.print(f"  {flag}", highlight=False, markup=False)
    if found.skipped:
        out.print(f"not an FFN, or not readable ({len(found.skipped)}):")
        for line in skipped_lines(found):
            out.print(line, highlight=False, markup=False)


def _table(found: Scan, title: str) -> Table:
    numbers = ("layer", "d_model", "d_ff", "experts", "taps", "error")
    shown = table(_COLUMNS, map(_row, found.blocks), right=numbers, title=title)
    for name, column in zip(_COLUMNS, shown.columns, strict=True):
        column.no_wrap = name not in {"block", "norm"}
    return shown


def _lines(block: Block) -> tuple[str, ...]:
    """Return a block in lines, for a terminal that is too narrow for the table."""
    experts = f", {block.experts} experts" if block.experts else ""
    sizes = f"d_model {block.d_model}, d_ff {block.d_ff}{experts}"
    return (
        f"layer {block.layer}: {block.name}",
        f"  {block.kind}, {block.layout}, {block.activation}; {sizes}",
        f"  norm {norm_text(block)}",
        f"  {len(block.roles)} taps, error {block.recompute_error:.1e}",
    )


def skipped_lines(found: Scan) -> list[str]:
    """Return a line a reason, then a line for all places whose paths differ in numbers."""
    places: dict[str, Counter[str]] = {}
    for skipped in found.skipped:
        path = _NUMBER.sub("*", skipped.path or "(model)")
        places.setdefault(skipped.reason, Counter())[path] += 1
    lines: list[str] = []
    for reason, paths in places.items():
        lines.append(f"  {reason}:")
        lines += [
            f"    {path}" + (f" ({n} places)" if n > 1 else "") for path, n in paths.items()
        ]
    return lines


def _row(block: Block) -> tuple[str, ...]:
    return (
        str(block.layer), block.name, block.kind, block.layout, block.activation,
        norm_text(block), str(block.d_model), str(block.d_ff), str(block.experts or "-"),
        str(len(block.roles)), f"{block.recompute_error:.1e}",
    )  # fmt: skip


def norm_text(block: Block) -> str:
    """Return the norm in words: kind, gain, bias, eps and cast convention."""
    norm = block.norm
    if norm.kind == "none":
        return "none"
    parts = [norm.kind]
    if norm.gain not in {None, "w"}:
        parts.append(str(norm.gain))
    if norm.gain is None:
        parts.append("no weight")
    if norm.kind == "layernorm" and not norm.bias:
        parts.append("no bias")
    if norm.eps is not None:
        parts.append(f"eps {norm.eps:g}")
    if norm.cast:
        parts.append(norm.cast)
    return ", ".join(parts)

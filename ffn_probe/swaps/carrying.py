"""Carry out a Swap on a model: every part of it in order, undone by one stack."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.calling import call_arguments, undisturbed
from ffn_probe.errors import FfnProbeError, SwapError
from ffn_probe.probes.record import moved
from ffn_probe.swaps import gating
from ffn_probe.swaps.activations import (
    SCALE,
    Acting,
    add_buffer,
    form_of,
    free_name,
    home_of,
    install,
)
from ffn_probe.swaps.dtypes import swap_block_dtype, swap_dtype
from ffn_probe.swaps.gating import Meeting, meeting, value_path
from ffn_probe.swaps.inline import Normalising, swap_inline
from ffn_probe.swaps.keeping import convert, smooth_blocks
from ffn_probe.swaps.matching import Calibration, calibrate
from ffn_probe.swaps.norms import swap_norms
from ffn_probe.swaps.places import Place, every_place, places_of
from ffn_probe.swaps.quantized import (
    WEIGHTS,
    Quantizer,
    Rounding,
    quantize_role,
    quantize_weight,
)
from ffn_probe.swaps.swap import Swap, named
from ffn_probe.swaps.swapped import Change, Left, Swapped
from ffn_probe.swaps.target import NONE, Target, target

ALREADY = "already"


@dataclass(slots=True)
class _Work:
    """The model, what is to be done, and what has been."""

    model: nn.Module
    swap: Swap
    blocks: Sequence[Block]
    stack: ExitStack
    changed: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    standing: list[tuple[Block, str, Acting | Rounding | Normalising]] = field(
        default_factory=list
    )

    def note(self, outcome: tuple[list[Change], list[Left]]) -> None:
        self.changed += outcome[0]
        self.left += outcome[1]


def carry_out(
    model: nn.Module,
    swap: Swap,
    blocks: Sequence[Block],
    stack: ExitStack,
    *,
    example: Any,
    calibration: Iterable[Any] | None,
    left: Sequence[Left] = (),
) -> Swapped:
    """Change the model until `stack` is closed; return what was done.

    Raises:
        SwapError: nothing of it applies, a block cannot be changed so, or the changed model
            does not run on the example. What was changed by then is on the stack.
    """
    work = _Work(model, swap, blocks, stack, left=list(left))
    if swap.how == "exact":
        return convert(model, swap, blocks, stack, example)
    places, wanted = _places(work)
    meetings = _meetings(work)
    fitted = _fitted(work, places, wanted, meetings, calibration)
    if wanted is not None:
        fits = fitted.fits if fitted is not None and swap.how == "matched" else None
        work.changed += swap_norms(model, places, wanted, stack, fits=fits)
        _swap_inline(work, wanted, example)
    for item in meetings:
        _meet(work, item, fitted)
    if swap.gating == gating.SMOOTH:
        work.changed += smooth_blocks(model, blocks, stack, calibration)
    if swap.dtype is not None:
        _cast(work, swap.dtype)
    _quantize(work)
    _check_applied(work)
    if example is not None:
        _check_runs(work, example)
    return Swapped(swap.text, tuple(work.changed), tuple(work.left))


# ---- before -----------------------------------------------------------------------------


def _places(work: _Work) -> tuple[list[Place], Target | None]:
    if work.swap.norm is None:
        return [], None
    wanted = target(*named("norm", work.swap.norm))
    find = every_place if work.swap.norms == "all" else places_of
    places, left = find(work.model, work.blocks)
    work.left += left
    same = [p for p in places if p.is_already(wanted, _dtype(work))]
    work.left += [Left("norm", p.path, f"it is {wanted.name} {ALREADY}") for p in same]
    return [p for p in places if p not in same], wanted


def _dtype(work: _Work) -> torch.dtype:
    """Return the dtype that the model will compute in."""
    if work.swap.dtype is not None and work.swap.blocks is None:
        found: torch.dtype = getattr(torch, work.swap.dtype)
        return found
    floats = (p.dtype for p in work.model.parameters() if p.is_floating_point())
    return next(floats, torch.float32)


def _meetings(work: _Work) -> list[Meeting]:
    swap = work.swap
    ways = None if swap.gating is None else named("gating", swap.gating)
    if swap.activation is None and (ways is None or ways[0] == gating.SMOOTH):
        return []
    act = None if swap.activation is None else form_of(*named("activation", swap.activation))
    found: list[Meeting] = []
    for block in work.blocks:
        item = meeting(block, act, ways)
        if isinstance(item, str):
            work.left.append(Left("activation" if act else "gating", block.name, item))
        else:
            found.append(item)
    return found


def _fitted(
    work: _Work,
    places: Sequence[Place],
    wanted: Target | None,
    meetings: Sequence[Meeting],
    calibration: Iterable[Any] | None,
) -> Calibration | None:
    matched = work.swap.how == "matched"
    means = [m for m in meetings if m.value == "mean"]
    if not (matched and (places or meetings)) and not means:
        return None
    if calibration is None:
        what = "how='matched'" if matched else "gating='mlp'"
        raise SwapError(f"{what} is fitted on batches: pass calibration=[batch, ...]")
    return calibrate(
        work.model, calibration,
        places=places if matched else [], wanted=wanted if matched else None,
        meetings=meetings if matched else means,
    )  # fmt: skip


def _swap_inline(work: _Work, wanted: Target, example: Any) -> None:
    inline = [b for b in work.blocks if b.norm.kind != NONE and b.norm.module is None]
    if inline and work.swap.how != "naive":
        raise SwapError(
            f"the norm of {inline[0].name!r} is no module, so nothing can hold refitted "
            "vectors; use how='naive', or leave the block out with blocks="
        )
    for block in inline:
        change, standing = swap_inline(work.model, block, wanted, work.stack, example)
        work.changed.append(change)
        work.standing.append((block, "norm", standing))


# ---- the parts --------------------------------------------------------------------------


def _meet(work: _Work, item: Meeting, fitted: Calibration | None) -> None:
    block, model, stack = item.block, work.model, work.stack
    home = home_of(model, block)
    acting = Acting(item.form, item.at, item.value, home)
    notes, db = [], None
    if item.value == "one":
        name = free_name(home, "value_path")
        acting.path, acting.value = value_path(model, block), "path"
        home.add_module(name, acting.path)
        stack.callback(home._modules.pop, name)
        notes.append(f"value path {name}, one at the start")
    if item.value == "mean" and fitted is not None:
        acting.value = ""
        gating.scale_down(model, block, fitted.meetings[block.name].mean_value(), stack)
        notes.append("the mean of the value path is folded into down")
    elif item.form is not None and fitted is not None and work.swap.how == "matched":
        factor, db = fitted.meetings[block.name].scale()
        scale = _like(model, block, torch.tensor(factor, dtype=torch.float64))
        acting.scale = add_buffer(home, SCALE, scale, stack)
        notes.append(f"hidden times {factor:.4g}")
    install(model, block, acting, stack)
    work.standing.append((block, "activation", acting))
    part = "activation" if work.swap.gating is None else "gating"
    change = Change(part, block.name, block.name, item.before, item.after, ", ".join(notes), db)
    work.changed.append(change)


def _like(model: nn.Module, block: Block, values: torch.Tensor) -> torch.Tensor:
    some = gating.parameter_of(model, block)
    return values.to(some.device, some.dtype)


def _cast(work: _Work, dtype: str) -> None:
    if work.swap.blocks is None:
        work.note(swap_dtype(work.model, dtype, work.stack))
        return
    for block in work.blocks:
        work.note(swap_block_dtype(work.model, block, dtype, work.stack))


def _quantize(work: _Work) -> None:
    for name, text in work.swap.quantize.items():
        quantizer = Quantizer.parse(text)
        for block in work.blocks:
            if name in WEIGHTS:
                change = quantize_weight(work.model, block, name, quantizer, work.stack)
            else:
                change, standing = quantize_role(work.model, block, name, quantizer, work.stack)
                work.standing.append((block, name, standing))
            work.changed.append(change)


# ---- after ------------------------------------------------------------------------------


def _check_applied(work: _Work) -> None:
    """Raise SwapError when nothing was changed, unless all is as asked for already."""
    if work.changed or any(item.why.endswith(ALREADY) for item in work.left):
        return
    why = "; ".join(f"{item.path}: {item.why}" for item in work.left[:3]) or "no block has it"
    raise SwapError(f"the swap {work.swap.text} applies to nothing ({why})")


def _check_runs(work: _Work, example: Any) -> None:
    """Run the changed model on the example and see that all that stands in it takes part."""
    device = next((p.device for p in work.model.parameters()), torch.device("cpu"))
    args, kwargs = call_arguments(moved(example, device))
    try:
        with undisturbed(work.model), torch.no_grad():
            work.model(*args, **kwargs)
    except FfnProbeError:
        raise
    except Exception as error:
        raise SwapError(
            f"the model does not run with the swap {work.swap.text}: "
            f"{type(error).__name__}: {error}. Nothing was changed"
        ) from error
    for block, role, standing in work.standing:
        if not standing.fired:
            raise SwapError(
                f"the {role} of {block.name!r} never passed the place where it is to be "
                f"replaced, so the swap {work.swap.text} would do nothing there. Does the "
                "example run the block? Nothing was changed"
            )

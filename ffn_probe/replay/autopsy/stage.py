"""Stage: a piece of a block with what enters it, what the candidate made, and the floor.

A bug is judged by what is left of the difference when the healthy block has it too. That is
computed twice: in the candidate's dtype, as the candidate would (often bit for bit), and, where
that dtype is narrow, in float32, free of the block's own rounding; the better one counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ffn_probe.errors import FfnProbeError
from ffn_probe.replay.autopsy.bugs import Bug
from ffn_probe.replay.parts import Parts, mapped

MARGIN_DB = 3.0
"""An error of twice the floor's power is still the floor."""
HIGHEST_DB = 280.0
"""No floor is higher: float64 in another order of summation."""

_NARROW = frozenset({torch.float16, torch.bfloat16})
_FLOOR_ROWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One piece of a block.

    `start` and `end` are roles: the rows `given` enter at `start` in the candidate's dtype,
    and `seen` is what the candidate has at `end`; `base` is the healthy block's answer, and
    `floor_db` the SQNR of what two healthy computations of it differ by. `healthy` holds the
    roles of the healthy block by dtype, `rounded` the block with its weights in a narrow dtype.
    """

    parts: Parts
    start: str
    end: str
    given: Tensor
    seen: Tensor
    base: Tensor
    floor_db: float
    healthy: Mapping[torch.dtype, Mapping[str, Tensor]]
    rounded: Parts

    @property
    def measured_db(self) -> float:
        """SQNR of the candidate against the reference."""
        return sqnr_db(self.base, self.seen)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """What bugs are computed in: the candidate's dtype, and float32 if that is narrow."""
        return tuple(self.healthy)

    @property
    def best_db(self) -> float:
        """SQNR of the candidate against the nearest of the healthy computations."""
        found = [sqnr_db(h[self.end], self.seen) for h in self.healthy.values()]
        return max([self.measured_db, *found])

    @property
    def is_healthy(self) -> bool:
        """Whether the candidate differs from the reference by no more than the floor."""
        return self.best_db >= self.floor_db - MARGIN_DB


def stage_of(
    parts: Parts,
    start: str,
    end: str,
    given: Tensor,
    seen: Tensor,
    captured: Tensor | None = None,
) -> Stage:
    """Return a stage, with its floor measured.

    Args:
        parts: the healthy block.
        start: role of `given`.
        end: role of `seen`.
        given: what entered the candidate, in its dtype; [rows, channels].
        seen: what the candidate made of it.
        captured: the reference's own answer, when it was fed the very same numbers.
    """
    own = next((x.dtype for x in (given, seen) if x.dtype in _NARROW), given.dtype)
    kinds = (own, torch.float32) if own in _NARROW else (own,)
    healthy = {kind: _run(parts, start, end, given, kind) for kind in kinds}
    same = captured is not None and captured.dtype == seen.dtype
    base = captured if same and captured is not None else healthy[kinds[-1]][end]
    other = None if captured is None else captured.dtype
    floor = _floor(parts, start, end, given, (own, other if same else None))
    rounded = mapped(parts, lambda x: x.to(own)) if own in _NARROW else parts
    return Stage(parts, start, end, given, seen, base, floor, healthy, rounded)


def _floor(
    parts: Parts, start: str, end: str, given: Tensor,
    kinds: tuple[torch.dtype, torch.dtype | None],
) -> float:  # fmt: skip
    """Return the SQNR of the rounding of both computations together, in dB."""
    stride = max(1, len(given) // _FLOOR_ROWS)
    few = given[::stride]
    truth = _run(parts, start, end, few, torch.float64)[end]
    noise = 0.0
    for kind in kinds:
        if kind is not None:
            noise += error_power(truth, _run(parts, start, end, few, kind)[end])
    power = _power(truth)
    found = 10 * math.log10(power / noise) if noise > 0 < power else math.inf
    return min(found, HIGHEST_DB)


def _run(
    parts: Parts, start: str, end: str, given: Tensor, kind: torch.dtype
) -> Mapping[str, Tensor]:
    """Return what follows from `given`, as far as `end`."""
    if end == "normed":
        rows = given.to(kind)
        return {start: rows, end: parts.norm.apply(rows)}
    return parts.run({start: given}, dtype=kind)


def predicted(stage: Stage, bug: Bug, kind: torch.dtype) -> Tensor | None:
    """Return what a block with this bug makes at the end of a stage.

    None where the bug does not apply, or its shapes and widths do not fit.
    """
    changed = bug.change(stage.parts)
    try:
        if changed is None:
            return None
        return _ended(changed, stage, _known(stage, changed, kind, bug), kind)
    except (RuntimeError, FfnProbeError):
        return None


def predictions(stage: Stage, bug: Bug) -> list[Tensor]:
    """Return what a block with this bug makes, computed in each way; the widest last.

    In a narrow dtype it is also computed from weights that were rounded before the bug was
    made, as in a model that was cast and then went wrong.
    """
    made = [predicted(stage, bug, kind) for kind in stage.dtypes]
    if len(stage.dtypes) > 1 and made[-1] is not None:
        rounded = replace(stage, parts=stage.rounded)
        made.insert(1, predicted(rounded, bug, stage.dtypes[0]))
    return [m for m in made if m is not None and m.shape == stage.base.shape]


def floor_of(stage: Stage, bug: Bug) -> float:
    """Return the floor of a block with a bug: its rounding in the candidate's dtype, in dB."""
    changed = bug.change(stage.parts)
    if changed is None:
        return stage.floor_db
    rows = stage.given[:: max(1, len(stage.given) // _FLOOR_ROWS)]
    kinds = (torch.float64, stage.dtypes[0])
    try:
        made = [
            _ended(changed, stage, _fresh(changed, stage, bug, rows.to(k)), k) for k in kinds
        ]
    except (RuntimeError, FfnProbeError):
        return stage.floor_db
    return min(stage.floor_db, sqnr_db(made[0], made[1]))


def _ended(
    parts: Parts, stage: Stage, given: Mapping[str, Tensor], kind: torch.dtype
) -> Tensor:
    """Return what stands at the end of a stage."""
    if stage.end == "normed":
        return given[stage.end]
    return parts.run(given, dtype=kind)[stage.end]


def _fresh(parts: Parts, stage: Stage, bug: Bug, rows: Tensor) -> dict[str, Tensor]:
    """Return what is to be computed from, when nothing is known yet."""
    normed = parts.norm.apply(rows) if stage.start == "resid" else rows
    return {"normed": normed if bug.entering is None else bug.entering(normed)}


def _known(stage: Stage, changed: Parts, kind: torch.dtype, bug: Bug) -> dict[str, Tensor]:
    """Return what need not be computed again: what the bug leaves as it was."""
    old, was = stage.parts, stage.healthy[kind]
    if changed.norm is not old.norm or bug.entering is not None:
        return _fresh(changed, stage, bug, stage.given.to(kind))
    found = {"normed": was["normed"]}
    if stage.end == "normed":
        return found
    if changed.gate is old.gate:
        found["gate"] = was["gate"]
    if changed.value is not None and changed.value is old.value:
        found["value"] = was["value"]
    same = changed.gate is old.gate and changed.value is old.value
    if same and changed.meet is old.meet and changed.activation is old.activation:
        found["hidden"] = was["hidden"]
    return found


# ---- energies ---------------------------------------------------------------------------


def error_power(a: Tensor, b: Tensor) -> float:
    """Return the sum of (a - b)^2; NaN or inf where one of them is not finite."""
    wide = torch.float64 if torch.float64 in {a.dtype, b.dtype} else torch.float32
    return _power(a.to(wide) - b.to(wide))


def _power(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Return the SQNR in dB of `other` against `reference`.

    It is inf when they are equal, -inf when shapes or what is not finite differ; NaN and
    infinities that are in the same place in both count as equal.
    """
    if reference.shape != other.shape:
        return -math.inf
    noise, power = error_power(reference, other), _power(reference)
    if not (math.isfinite(noise) and math.isfinite(power)):
        return _finite_db(reference, other)
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def _finite_db(reference: Tensor, other: Tensor) -> float:
    keep = reference.isfinite()
    if bool((keep != other.isfinite()).any()):
        return -math.inf
    return sqnr_db(reference[keep].double(), other[keep].double())

"""A drift under larger or smaller thresholds: its counts, and its colours as plain numbers."""

import math
from bisect import bisect_right

from ffn_probe.compare import Drift
from ffn_probe.compare.change import RANK
from ffn_probe.compare.tolerance import MULTIPLIERS, changes_of, tolerance
from ffn_probe.figures.grid import CAP, FLOOR_CAP, PASSED_AT, Grid, View
from ffn_probe.figures.theme import THRESHOLD_AT


def tried(drift: Drift, aspect: str = "") -> tuple[tuple[int, int], ...]:
    """Return how many sites fail, and are suspicious, at each of MULTIPLIERS."""
    steps = [tolerance(changes_of(site, aspect)).steps() for site in drift.sites]
    fails, either = (sorted(column) for column in zip(*steps, strict=True))
    many = len(steps)
    counts = [
        (many - bisect_right(fails, i), many - bisect_right(either, i))
        for i in range(len(MULTIPLIERS))
    ]
    return tuple((f, e - f) for f, e in counts)


def trial(grid: Grid, view: View) -> dict[str, object]:
    """Return what it takes to colour a grid anew at each of MULTIPLIERS, as plain JSON.

    `values` are multiples at 1 (null: none), `fails` and `warns` the numbers of steps at
    which a cell fails and does not pass (-1: no such site), `step` that of the view, the
    rest what `heat` does.
    """
    cells = grid.cells
    shown = [[cell.mark in RANK for cell in row] for row in cells]
    steps = [[cell.tolerance.steps() for cell in row] for row in cells]
    pairs = [list(zip(*both, strict=True)) for both in zip(shown, steps, strict=True)]
    return {
        "by": view.by,
        "step": MULTIPLIERS.index(view.multiplier),
        "cap": FLOOR_CAP if view.by == "floor" else CAP,
        "threshold_at": THRESHOLD_AT,
        "passed_at": PASSED_AT,
        "values": [[_plain(cell.raw) for cell in row] for row in cells],
        "fails": [[s[0] if there else -1 for there, s in row] for row in pairs],
        "warns": [[s[1] if there else -1 for there, s in row] for row in pairs],
    }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{min(value, 1e9):.4g}")

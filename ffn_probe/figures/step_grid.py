"""A measure over layers (or roles) and steps: what a heatmap of a training shows."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.anatomy import Site
from ffn_probe.figures.history import History, unusual

CELLS, COLUMNS = 24_000, 600  # of a map; more is neither seen nor sent fast


@dataclass(frozen=True, slots=True)
class StepGrid:
    """A measure over rows (layers or roles) and windows, neighbours put together.

    `edges` are the steps where columns begin and end; `values` the most unusual value of
    the windows and experts in a cell (NaN: none), `steps` the last step of its window and
    `names` its site. A column stands for `together` windows.
    """

    rows: tuple[str, ...]
    edges: Int64[np.ndarray, " edges"]
    values: Float64[np.ndarray, "rows columns"]
    steps: Int64[np.ndarray, "rows columns"]
    names: tuple[tuple[str, ...], ...]
    together: int


def step_grid(
    of: History, name: str, site: Site, *, by: str = "layer", most: int = CELLS
) -> StepGrid:
    """Return a measure of all layers at the role of `site`, or of all roles of its block.

    Args:
        of: the history, which has the measure among its values.
        name: the measure.
        site: which role (by layer) or which block (by role).
        by: "layer" or "role".
        most: cells; of more windows, neighbours share a column by the most unusual value.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i, other in enumerate(of.sites):
        same = other.role == site.role if by == "layer" else other.block == site.block
        if same:
            groups.setdefault((other.block, other.role), []).append(i)
    columns = min(COLUMNS, max(1, most // max(1, len(groups))))
    together = max(1, math.ceil(of.windows / columns))
    width = math.ceil(of.windows / together)
    values, steps, names = [], [], []
    for members in groups.values():
        mine = of.values[name][members].astype(np.float64)
        which, window = _worst(mine, name, together)
        values.append(mine[which, window])
        steps.append(of.last[window])
        names.append(tuple(of.sites[members[i]].name for i in which))
    shape = (len(groups), width)
    first = [of.sites[members[0]] for members in groups.values()]
    return StepGrid(
        tuple(str(s.layer) if by == "layer" else s.role for s in first),
        np.concatenate([of.first[::together], of.last[-1:] + 1]),
        np.array(values, np.float64).reshape(shape),
        np.array(steps, np.int64).reshape(shape),
        tuple(names),
        together,
    )


def _worst(
    values: Float64[np.ndarray, "sites windows"], name: str, together: int
) -> tuple[Int64[np.ndarray, " columns"], Int64[np.ndarray, " columns"]]:
    """Return the site and the window of the most unusual value of each column."""
    sites, windows = values.shape
    width = math.ceil(windows / together)
    rank = np.full((sites, width * together), -np.inf)
    rank[:, :windows] = unusual(values.ravel(), name).reshape(values.shape)
    cells = rank.reshape(sites, width, together).transpose(1, 0, 2).reshape(width, -1)
    best = cells.argmax(axis=1)
    window = np.arange(width) * together + best % together
    return best // together, window

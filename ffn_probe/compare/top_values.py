"""The largest values and channels of a site in one run, with their addresses."""

from functools import reduce

from ffn_probe.anatomy import Site
from ffn_probe.runs import Run
from ffn_probe.sketches import Extremes


def top_values(run: Run, sites: tuple[Site, ...]) -> Extremes:
    """Return the extremes of the sites together, of all folds; `empty()` when unknown."""
    found = run.load("extremes")
    parts = [part for site in sites for part in found.get(site, {}).values()]
    return reduce(lambda a, b: a.merge(b), parts) if parts else Extremes.empty()

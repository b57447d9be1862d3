"""The measures of every site of a run, block by block, so that no run is held as a whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from ffn_probe.anatomy import Block, Site
from ffn_probe.measures import MEASURES, Measure, MeasureInput, measure, measure_all
from ffn_probe.runs.progress import told
from ffn_probe.sketches import Summary


def measured(
    sites: Sequence[Site],
    summary: Callable[[Site], Summary],
    *,
    blocks: Iterable[Block],
    names: Iterable[str] | None = None,
    what: str = "measuring",
) -> Iterator[tuple[Site, Measure, float]]:
    """Yield (site, measure, value) of the measures that apply, in the order of the sites.

    Args:
        sites: the sites, those of a block together.
        summary: gives the summary of a site.
        blocks: the blocks that were probed.
        names: the measures; all by default.
        what: what is being done, for whoever listens to the progress.

    Raises:
        UnknownName: one of `names` is no measure.
    """
    chosen = [entry.name for entry in MEASURES] if names is None else list(names)
    for name in chosen:
        measure(name)
    kinds = {block.name: block for block in blocks}
    listed = [list(found) for _, found in groupby(sites, key=lambda site: site.block)]
    for of_block in told(what, listed):
        for site, given in inputs(of_block, summary, kinds.get(of_block[0].block)):
            for entry, value in measure_all(given, chosen):
                yield site, entry, value


def inputs(
    sites: Iterable[Site], summary: Callable[[Site], Summary], block: Block | None
) -> Iterator[tuple[Site, MeasureInput]]:
    """Yield what the measures of each site of one block are made of.

    The siblings of an expert's site are its own and those of the whole block.
    """
    summaries = {site: summary(site) for site in sites}
    experts: dict[int, dict[str, Summary]] = {}
    for site, found in summaries.items():
        experts.setdefault(site.expert, {})[site.role] = found
    for site, found in summaries.items():
        beside = experts.get(-1, {}) | experts[site.expert]
        yield site, MeasureInput(found, site.role, block, beside)

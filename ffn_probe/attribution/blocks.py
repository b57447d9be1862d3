"""The story of one pair of blocks: local and inherited, stages, causes, theory, patches."""

import math
from collections.abc import Iterator

from ffn_probe.attribution.attribution import (
    INDISTINGUISHABLE,
    BlockAttribution,
    Interval,
    StageError,
    stage_of,
)
from ffn_probe.attribution.bootstrap import ratio
from ffn_probe.attribution.expectations import theory_of
from ffn_probe.attribution.floors import above, sqnr_db, status
from ffn_probe.attribution.pair_tables import PairTables
from ffn_probe.attribution.regions import regions
from ffn_probe.attribution.shares import causes, norm_split, patches
from ffn_probe.attribution.site_pair import SitePair

MOSTLY = 0.99
"""Above this share of local (or inherited) energy a block's drift is called by it alone."""

_STAGED = ("normed", "gate", "value", "gate_act", "hidden", "out")


def block_of(tables: PairTables, layer: int, block: str) -> BlockAttribution:
    """Return what made the output of one block drift."""
    candidate, reason = tables.candidates.get(block, (block, ""))
    end = tables.site(block, "out", "end")
    channels = tables.channels(block, "out", "end")
    patch = patches(tables, block)
    shared = causes(tables, block)
    local, inherited = (tables.site(block, "out", view) for view in ("local", "inherited"))
    reason = reason or _reason(end or local)  # block by block nothing is run end to end
    levels = (_level(end), _level(local), _inherited_db(end, inherited))
    floor = tables.floor_db(block, "out")
    parts = _parts(end, local, inherited)
    frame = tables.frames["activation_error"]
    return BlockAttribution(
        layer, block, candidate,
        "unpaired" if reason else block_status(levels, floor, end, local),
        reason, *levels, floor,
        energy=math.nan if end is None or reason else end.total("error"),
        signal=math.nan if end is None or reason else end.total("energy_a"),
        local=parts[0], inherited=parts[1], cross=parts[2],
        gain=end.norm_ratio if end else math.nan,
        cosine=end.cosine if end else math.nan,
        cosine_standardised=channels.cosine_standardised if channels else math.nan,
        cka=end.cka if end else math.nan,
        stages=tuple(_stages(tables, block)),
        causes=shared.causes, interaction=shared.interaction, separable=shared.separable,
        theory=theory_of(tables, block), norm_split=norm_split(tables, block),
        regions=regions(frame[frame["block"] == block]),
        patched_back=patch.back, patched_in=patch.into, patched_parts=patch.parts,
    )  # fmt: skip


def block_status(
    levels: tuple[float, float, float],
    floor: float,
    end: SitePair | None = None,
    local: SitePair | None = None,
) -> str:
    """Return "indistinguishable", "local", "inherited" or "mixed".

    Args:
        levels: SQNR in dB end to end, of the block's own error, of what it inherits.
        floor: the noise floor in dB.
        end: the block's output end to end; values that are not finite in one model only make
            the block local when they do so on the reference's input, too.
        local: the block's output on the reference's residual stream.
    """
    if end is not None and _one_sided(end):
        return "local" if local is not None and _one_sided(local) else "inherited"
    whole, own, given = (above(level, floor) for level in levels)
    if not (whole or own):
        return INDISTINGUISHABLE
    if not own:
        return "inherited"
    if not given:
        return "local"
    apart = max(-100.0, min(100.0, levels[1] - levels[2]))
    share = 1 / (1 + 10 ** (apart / 10))
    return "local" if share > MOSTLY else "mixed"


def _reason(end: SitePair | None) -> str:
    """Return why a block's output cannot be compared, "" where it can."""
    if end is None:
        return "its output was not compared"
    if not end.reason and not end.total("count") and not _one_sided(end):
        return "no value of its output is finite in both models"
    return end.reason


def _one_sided(site: SitePair) -> bool:
    a, b = site.nonfinite
    return (a > 0) != (b > 0)


def _level(site: SitePair | None) -> float:
    return math.nan if site is None else site.sqnr_db


def _inherited_db(end: SitePair | None, inherited: SitePair | None) -> float:
    """Return the signal of the reference over what was inherited."""
    if end is None or inherited is None or not (end.paired and inherited.paired):
        return math.nan
    return sqnr_db(end.total("energy_a"), inherited.total("error"))


def _parts(
    end: SitePair | None, local: SitePair | None, inherited: SitePair | None
) -> tuple[Interval, Interval, Interval]:
    """Return local, inherited and cross energy over the whole error; they add to 1."""
    nothing = Interval(math.nan)
    if end is None or local is None or inherited is None:
        return nothing, nothing, nothing
    sites = (end, local, inherited)
    if not all(site.paired and site.folds == end.folds for site in sites):
        return nothing, nothing, nothing
    whole, own, given = (site.by_fold("error") for site in sites)
    cross = 2 * inherited.by_fold("cross")
    return ratio(own, whole), ratio(given, whole), ratio(cross, whole)


def _stages(tables: PairTables, block: str) -> Iterator[StageError]:
    """Yield the stages with an error of any kind, in the order of the data flow."""
    known = {role for view in ("stage", "local", "end") for role in tables.roles(block, view)}
    roles = [role for role in _STAGED if role in known]
    kind = tables.kinds.get(block, "glu")
    for role in roles:
        injected, accumulated, end = (
            _level(tables.site(block, role, view)) for view in ("stage", "local", "end")
        )
        floor = tables.floor_db(block, role)
        stage = stage_of(role, kind, split="gate_act" in roles)
        yield StageError(
            role, stage, injected, accumulated, end, floor, status(injected, floor)
        )

"""What pages show of the channels of one role: maps that can be drawn, and what stands out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ffn_probe.anatomy import Site
from ffn_probe.figures.channel_list import Found, Widths, unusual
from ffn_probe.runs import Run
from ffn_probe.runs.channel_map import CHANNEL_MEASURES, COLUMNS, ChannelMap, channel_map
from ffn_probe.runs.progress import tell, told

_WHOLE = 1 << 30  # columns of a map in which every channel has its own
_CELLS = 160_000
"""Of a heatmap. More do not fit a screen, and cost a browser a second."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelDigest:
    """The channels of one role of a run, in what can be kept and drawn.

    `maps` holds a map a measure; `kurtosis` and `typical` (the median RMS) have an entry a
    row of them. `loudest` is the layer in which a channel stands out most, `large` how many
    channels reach LARGE in enough layers, be they listed or too many to say anything.
    """

    role: str
    layers: tuple[int, ...]
    maps: Mapping[str, ChannelMap]
    kurtosis: Float64[np.ndarray, " blocks"]
    typical: Float64[np.ndarray, " blocks"]
    loudest: int
    large: int
    unusual: tuple[Found, ...]


def channel_digest(run: Run, role: str) -> ChannelDigest:
    """Return the channels of a role of a run, each of which is read once.

    Raises:
        UnknownName: no channels of the role were recorded.
        RunError, SchemaError: a part cannot be read; the message names it.
    """
    sites = [site for site in run.sites if site.role == role]
    listed = told(f"reading channels of {run.name}", sites)
    held = {site: run.summary(site).channels.to_row() for site in listed}

    def rows(site: Site, columns: Sequence[str]) -> Iterable[Mapping[str, np.ndarray]]:
        row = held[site]
        return [{name: np.asarray(row[name]) for name in columns}]

    tell(f"looking for what stands out in {run.name}")
    whole = (
        channel_map(sites, rows, role=role, measure=name, columns=_WHOLE)
        for name in ("rms", "absmax", "active")
    )
    of = widths_of(list(whole))
    columns = min(COLUMNS, max(1, _CELLS // len(of.layers)))
    maps = {
        m.name: channel_map(sites, rows, role=role, measure=m.name, columns=columns)
        for m in CHANNEL_MEASURES
    }
    best = np.nan_to_num(of.times, nan=0.0).max(axis=1, initial=0.0)
    return ChannelDigest(
        role, of.layers, maps, of.kurtosis, of.typical, of.layers[int(best.argmax())],
        int(of.large.sum()), tuple(unusual(of)),
    )  # fmt: skip


def widths_of(maps: Sequence[ChannelMap]) -> Widths:
    """Return the channels of whole maps of rms, absmax and active share."""
    rms, absmax, active = (m.values.astype(np.float64) for m in maps)
    return Widths(maps[0].role, maps[0].layers, rms, absmax, active)


def layer_channels(run: Run, role: str, layer: int, measure: str) -> Float64[np.ndarray, " n"]:
    """Return a measure of every channel of one layer; of experts, the one that stands out."""
    sites = [site for site in run.sites if site.role == role and site.layer == layer]

    def rows(site: Site, columns: Sequence[str]) -> Iterable[Mapping[str, np.ndarray]]:
        row = run.summary(site).channels.to_row()
        return [{name: np.asarray(row[name]) for name in columns}]

    found = channel_map(sites, rows, role=role, measure=measure, columns=_WHOLE)
    line = found.values[0].astype(np.float64)
    return np.asarray(line[~np.isnan(line)])

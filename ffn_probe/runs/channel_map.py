"""ChannelMap: one number a channel over all layers, in no more columns than can be drawn.

Where a model has more channels than columns, a column stands for several neighbours and
shows the one that is farthest out, with its id: an outlier channel is never averaged away.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float32, Float64, Int32

from ffn_probe.anatomy import Site
from ffn_probe.errors import UnknownName
from ffn_probe.runs.progress import told
from ffn_probe.sketches import Channels

COLUMNS = 4096

Rows = Callable[[Site, Sequence[str]], Iterable[Mapping[str, np.ndarray]]]
"""Gives the rows of the table `channels` of a site, with some of its columns."""


@dataclass(frozen=True, slots=True)
class ChannelMeasure:
    """A number of a channel: what it is read from, and which of neighbours is shown.

    `least` says that the smallest of neighbours stands out, not the largest magnitude.
    """

    name: str
    label: str
    unit: str
    columns: tuple[str, ...]
    of: Callable[[Channels], Float64[np.ndarray, " channels"]]
    least: bool = False


_T = "unit of the tensor"

CHANNEL_MEASURES: tuple[ChannelMeasure, ...] = (
    ChannelMeasure("absmax", "largest magnitude", _T, ("absmax",), lambda c: c.absmax),
    ChannelMeasure("rms", "root mean square", _T, ("count", "mean", "m2"), lambda c: c.rms),
    ChannelMeasure(
        "mean", "mean", _T, ("count", "mean"), lambda c: np.where(c.count > 0, c.mean, np.nan)
    ),
    ChannelMeasure("std", "standard deviation", _T, ("count", "mean", "m2"), lambda c: c.std),
    ChannelMeasure(
        "active", "share of values other than zero", "share", ("count", "active"),
        lambda c: c.active / np.where(c.count > 0, c.count, np.nan), least=True,
    ),
)  # fmt: skip
"""What a map of channels can show."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelMap:
    """A number of every channel of one role: a row a block, a column a few neighbours.

    `values` holds what stands out most in each column and `channels` its channel; NaN and -1
    where a block has no such channel. Of a mixture the experts count as neighbours, too.
    """

    measure: ChannelMeasure
    role: str
    layers: tuple[int, ...]
    blocks: tuple[str, ...]
    width: int  # channels of the widest block
    values: Float32[np.ndarray, "blocks columns"]
    channels: Int32[np.ndarray, "blocks columns"]

    @property
    def together(self) -> int:
        """How many channels a column stands for."""
        return _together(self.width, self.values.shape[1]) if self.width else 1


def channel_measure(name: str) -> ChannelMeasure:
    """Return the measure of channels of that name.

    Raises:
        UnknownName: there is none.
    """
    for entry in CHANNEL_MEASURES:
        if entry.name == name:
            return entry
    raise UnknownName.of("measure of channels", name, [m.name for m in CHANNEL_MEASURES])


def channel_map(
    sites: Iterable[Site],
    rows: Rows,
    *,
    role: str,
    measure: str,
    columns: int = COLUMNS,
    what: str = "reading channels",
) -> ChannelMap:
    """Return the map of a role. The sites are read one after the other; none is kept.

    Args:
        sites: the sites of the run, those of a block together.
        rows: gives the rows of a site.
        role: whose channels.
        measure: a name of CHANNEL_MEASURES.
        columns: the most columns.
        what: what is being done, for whoever listens to the progress.

    Raises:
        UnknownName: no measure has that name, or no channels of the role were recorded.
        SketchError: rows of a site have unlike numbers of channels.
    """
    entry = channel_measure(measure)
    listed = list(sites)
    found = [list(of) for _, of in groupby(listed, key=lambda s: (s.layer, s.block))]
    blocks = [kept for of in found if (kept := [s for s in of if s.role == role])]
    lines = [
        (of[0], line)
        for of in told(what, blocks)
        if (line := _line([_channels(rows(site, entry.columns)) for site in of], entry)).size
    ]
    if not lines:
        known = dict.fromkeys(site.role for site in listed)
        raise UnknownName.of("role", role, known, "with channels. See run.sites.")
    width = max(line.size for _, line in lines)
    together = _together(width, max(columns, 1))
    drawn = [_aggregated(line, entry, width, together) for _, line in lines]
    return ChannelMap(
        entry,
        role,
        tuple(site.layer for site, _ in lines),
        tuple(site.block for site, _ in lines),
        width,
        np.stack([values for values, _ in drawn]),
        np.stack([channels for _, channels in drawn]),
    )


def _together(width: int, columns: int) -> int:
    return -(-width // columns)


def _channels(rows: Iterable[Mapping[str, np.ndarray]]) -> Channels | None:
    """Return the channels of all rows of a site; what was not read of them is zero."""
    whole: Channels | None = None
    for row in rows:
        size = next(iter(row.values())).size
        empty = Channels.empty(size).to_row()
        part = Channels.from_row(empty | dict(row))
        whole = part if whole is None else whole.merge(part)
    return whole


def _line(
    experts: Iterable[Channels | None], entry: ChannelMeasure
) -> Float64[np.ndarray, " channels"]:
    """Return the number of each channel of a block; of experts, the one that stands out."""
    with np.errstate(all="ignore"):
        found = [entry.of(channels) for channels in experts if channels is not None]
    width = max((line.size for line in found), default=0)
    lines = [np.pad(line, (0, width - line.size), constant_values=np.nan) for line in found]
    if len(lines) < 2:
        return lines[0] if lines else np.zeros(0)
    stacked = np.stack(lines)
    best = _outstanding(stacked, entry).argmax(axis=0)
    line: np.ndarray = np.take_along_axis(stacked, best[None], axis=0)[0]
    return line


def _outstanding(values: np.ndarray, entry: ChannelMeasure) -> np.ndarray:
    """Return by what the values are ranked; what is not known comes last."""
    size = -values if entry.least else np.abs(values)
    return np.where(np.isnan(size), -np.inf, size)


def _aggregated(
    line: Float64[np.ndarray, " channels"], entry: ChannelMeasure, width: int, together: int
) -> tuple[Float32[np.ndarray, " columns"], Int32[np.ndarray, " columns"]]:
    """Return what stands out in each column, and which channel it is."""
    columns = -(-width // together)
    padded = np.full(columns * together, np.nan)
    padded[: line.size] = line
    square = padded.reshape(columns, together)
    best = _outstanding(square, entry).argmax(axis=1)
    values = square[np.arange(columns), best]
    channels = np.arange(columns) * together + best
    with np.errstate(over="ignore"):
        shown = values.astype(np.float32)
    return shown, np.where(np.isnan(values), -1, channels).astype(np.int32)

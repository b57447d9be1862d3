"""The host side of an Accumulator: its copied state as the sketches of a run's tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffn_probe.sketches import TOP, BitHistogram, Channels, Extremes, Moments

FOLD_BITS = 3
TOP_K = 16
_TOKENS = ("token_absmax", "token_rms", "token_ratio")


@dataclass(frozen=True, slots=True)
class State:
    """The arrays of one Accumulator on the host, seen for one of its groups."""

    arrays: Mapping[str, np.ndarray]
    group: int
    channels: int
    bits: int
    exact: bool


def fold_rows(of: State, lane: int, fold: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of one fold for moments, histograms and extremes."""
    del fold
    coarse = _histogram(of.arrays["histogram"][lane, of.group], FOLD_BITS, exact=of.exact)
    counts = {
        "seen_rows": int(of.arrays["seen"][lane, of.group]),
        "sampled_rows": int(of.arrays["sampled"][lane, of.group]),
    }
    return {
        "moments": [{**counts, **_moments(of, lane, coarse).to_row()}],
        "histograms": [coarse.to_row()],
        "extremes": [_extremes(of, lane).to_row()],
    }


def whole_rows(of: State) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Return (table, fold, row) of what is kept for a window as a whole or for its halves."""
    whole = _histogram(of.arrays["histogram"][of.group], of.bits, exact=of.exact)
    yield "histograms", -1, whole.to_row()
    for half in (0, 1):
        if of.arrays["channel_count"][half, of.group].any() or half == 0:
            yield "channels", -2 - half, _channels(of, half).to_row()


def _histogram(dense: np.ndarray, bits: int, *, exact: bool) -> BitHistogram:
    return BitHistogram.of_codes(dense, bits, exact=exact)


def _moments(of: State, lane: int, coarse: BitHistogram) -> Moments:
    n, s1, s2, s3, s4 = of.arrays["powers"][lane, of.group].tolist()
    pivot = float(of.arrays["pivot"][of.group].mean())
    special = (coarse.nan, coarse.pos_inf, coarse.neg_inf)
    if n == 0:
        return Moments(0, *special, 0.0, 0.0, 0.0, 0.0)
    m = s1 / n
    m2 = max(s2 - n * m * m, 0.0)
    m3 = s3 - 3 * m * s2 + 2 * n * m**3
    m4 = max(s4 - 4 * m * s3 + 6 * m * m * s2 - 3 * n * m**4, 0.0)
    return Moments(int(n), *special, pivot + m, m2, m3, m4)


def _channels(of: State, half: int) -> Channels:
    count = of.arrays["channel_count"][half, of.group]
    s1, s2 = of.arrays["channel_sums"][half, of.group]
    n = np.maximum(count, 1)
    return Channels(
        count=count.astype(np.int64),
        mean=np.where(count > 0, of.arrays["pivot"][of.group] + s1 / n, 0.0),
        m2=np.maximum(s2 - s1 * s1 / n, 0.0),
        absmax=of.arrays["channel_absmax"][half, of.group].astype(np.float64),
        active=of.arrays["channel_active"][half, of.group].astype(np.int64),
    )


def _extremes(of: State, lane: int) -> Extremes:
    values = of.arrays["top"][lane, of.group]
    where = of.arrays["top_where"][lane, of.group]
    kept = values != 0
    top = np.zeros(int(kept.sum()), TOP)
    top["value"] = values[kept]
    for i, name in enumerate(("step", "sequence", "position", "token", "channel")):
        top[name] = where[kept, i]
    rows = int(of.arrays["seen"][lane, of.group])
    special = of.arrays["special"][lane, of.group].tolist()
    tokens = {
        name: _histogram(of.arrays["tokens"][lane, of.group, i], FOLD_BITS, exact=False)
        for i, name in enumerate(_TOKENS)
    }
    bounds = {n: float(of.arrays[n][lane, of.group]) for n in ("low", "high")}
    return Extremes(
        k=TOP_K,
        rows=rows,
        count=rows * of.channels,
        nan=special[0],
        pos_inf=special[1],
        neg_inf=special[2],
        min=bounds["low"],
        max=bounds["high"],
        top=top,
        **tokens,
    )

"""Which tokens hold the largest values of a site, and how tokens differ in size."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ffn_probe.anatomy import Site
from ffn_probe.runs import Run
from ffn_probe.runs.progress import told
from ffn_probe.runs.visible import visible
from ffn_probe.sketches import BitHistogram

MASSIVE, MASSIVE_TIMES = 100.0, 1000.0
"""A massive activation: |x| > 100 and 1000 times the median |x| (Sun et al. 2024, 2.2)."""

SPIKES: tuple[tuple[float, str], ...] = (
    (10.0, "costs int8 per tensor bits"),
    (1000.0, "costs e4m3 per tensor bits"),
)
"""Ratios of the largest to the median token from which on a format suffers: limits of ours."""

STEPS = 2
"""Bins an octave of the map of token sizes."""

_DELIMITERS = frozenset(".,;:!?\"'()[]{}<>-_|/\\`\u21b5\u21e5\u2423")
_LETTERS = 24


@dataclass(frozen=True, slots=True)
class TopValue:
    """One of the largest values of a site: where it was seen. -1 stands for unknown.

    `times` is |value| over the median |x| of the site; `text` is "" where it is not known.
    """

    site: Site
    value: float
    times: float
    channel: int
    token: int
    text: str
    position: int
    sequence: int
    step: int

    @property
    def massive(self) -> bool:
        """Whether this is a massive activation."""
        return abs(self.value) > MASSIVE and self.times > MASSIVE_TIMES


@dataclass(frozen=True, slots=True, eq=False)
class SiteTokens:
    """What the tokens of one site are like.

    `median` is of |x|, `absmax` the median, the 99th percentile and the largest of the tokens'
    absmax, and `spike` the largest over the median of it; `ratio` is the median and
    `ratio_p99` the 99th percentile of |mean| / std of a token. NaN where nothing was seen.
    `sizes` is the share of the tokens by absmax in bins of half an octave from `first` on
    (in half octaves: a bin i reaches from 2^(i/2)); tokens of zeros are in `zeros`.
    """

    site: Site
    rows: int
    top: tuple[TopValue, ...]
    median: float
    absmax: tuple[float, float, float]
    spike: float
    ratio: float
    ratio_p99: float
    first: int
    sizes: Float64[np.ndarray, " bins"]
    zeros: float


def site_tokens(run: Run, role: str) -> list[SiteTokens]:
    """Return the tokens of every site of a role, by layer."""
    texts = run.manifest.vocabulary
    sites = [site for site in run.sites if site.role == role]
    return [_tokens(run, site, texts) for site in told(f"reading {run.name}", sites)]


def _tokens(run: Run, site: Site, texts: Mapping[str, str]) -> SiteTokens:
    seen = run.summary(site).extremes
    histogram = run.histogram(site)
    median = float(histogram.abs_quantile(0.5)) if histogram.count else math.nan
    top = tuple(_top(site, entry, median, texts) for entry in seen.top)
    first, sizes, zeros = half_octaves(seen.token_absmax)
    return SiteTokens(
        site, seen.rows, top, median, (*_middle(seen.token_absmax), seen.absmax),
        seen.spike_ratio, *_middle(seen.token_ratio), first, sizes, zeros,
    )  # fmt: skip


def _middle(of: BitHistogram) -> tuple[float, float]:
    """Return the median and the 99th percentile; NaN for nothing."""
    if not of.count:
        return math.nan, math.nan
    found = of.quantile(np.array([0.5, 0.99]))
    return float(found[0]), float(found[1])


def _top(site: Site, entry: np.void, median: float, texts: Mapping[str, str]) -> TopValue:
    value, token = float(entry["value"]), int(entry["token"])
    return TopValue(
        site=site,
        value=value,
        times=abs(value) / median if median > 0 else math.inf,
        channel=int(entry["channel"]),
        token=token,
        text=shown_token(texts.get(str(token), "")),
        position=int(entry["position"]),
        sequence=int(entry["sequence"]),
        step=int(entry["step"]),
    )


def shown_token(text: str) -> str:
    """Return a token's text in a line: spaces at its ends can be seen, nothing is hidden.

    >>> shown_token(" the"), shown_token(chr(10))
    ('␣the', '↵')
    """
    safe = visible(text, _LETTERS)
    inner = safe.strip(" ")
    left = len(safe) - len(safe.lstrip(" "))
    right = len(safe) - len(inner) - left if inner else 0
    return "\u2423" * left + inner + "\u2423" * right


def half_octaves(
    absmax: BitHistogram,
) -> tuple[int, Float64[np.ndarray, " bins"], float]:
    """Return (first half octave, share of the tokens in each, share of tokens of zeros)."""
    if not absmax.count:
        return 0, np.zeros(0), math.nan
    size, weight = np.abs(absmax.midpoints()), absmax.weights().astype(np.float64)
    kept = size > 0
    zeros = float(weight[~kept].sum() / absmax.count)
    if not kept.any():
        return 0, np.zeros(0), zeros
    at = np.floor(np.log2(size[kept]) * STEPS).astype(np.int64)
    first = int(at.min())
    shares = np.bincount(at - first, weights=weight[kept]) / absmax.count
    return first, np.asarray(shares, np.float64), zeros


# ---- where the largest sit --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sink:
    """How many of the largest values sit where: of `total`, `massive` are massive.

    `first` are at the first position of their sequence, `delimiters` at a punctuation mark
    or a space (of those whose text is known: `known`). `positions`, `texts` and `channels` are
    (what, count), the most frequent first.
    """

    total: int
    massive: int
    first: int
    placed: int
    delimiters: int
    known: int
    positions: tuple[tuple[int, int], ...]
    texts: tuple[tuple[str, int], ...]
    channels: tuple[tuple[int, int], ...]


def sink(top: Iterable[TopValue], most: int = 6) -> Sink:
    """Return where the largest values sit; where any are massive, where those do."""
    every = list(top)
    massive = [t for t in every if t.massive]
    chosen = massive or every
    placed = [t for t in chosen if t.position >= 0]
    known = [t for t in chosen if t.text]
    return Sink(
        len(chosen),
        len(massive),
        sum(t.position == 0 for t in placed),
        len(placed),
        sum(set(t.text) <= _DELIMITERS for t in known),
        len(known),
        tuple(Counter(t.position for t in placed).most_common(most)),
        tuple(Counter(t.text for t in known).most_common(most)),
        tuple(Counter(t.channel for t in chosen).most_common(most)),
    )


def sink_told(found: Sink) -> str:
    """Return where the largest values sit, in a sentence."""
    if not found.total:
        return "no value other than zero was seen."
    what = f"{found.massive:,} massive" if found.massive else f"the {found.total:,} largest"
    said = [f"{what} values"]
    if found.placed:
        said.append(f"{found.first:,} at the first position")
    if found.known:
        said.append(f"{found.delimiters:,} at a delimiter or space")
    if found.channels:
        channel, count = found.channels[0]
        said.append(f"{count:,} in channel {channel}")
    return f"{said[0]}: {', '.join(said[1:])}." if len(said) > 1 else f"{said[0]}."


def size_map(
    of: Sequence[SiteTokens],
) -> tuple[Int64[np.ndarray, " bins"], Float64[np.ndarray, "sites bins"]]:
    """Return the half octaves that any site has, and the share of its tokens in each."""
    held = [x for x in of if x.sizes.size]
    if not held:
        return np.zeros(0, np.int64), np.zeros((len(of), 0))
    low = min(x.first for x in held)
    high = max(x.first + x.sizes.size for x in held)
    shares = np.zeros((len(of), high - low))
    for i, x in enumerate(of):
        shares[i, x.first - low : x.first - low + x.sizes.size] = x.sizes
    return np.arange(low, high), shares

"""What formats clip and flush to zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from ffn_probe.anatomy import Site
from ffn_probe.figures.canvas import framed
from ffn_probe.figures.numbers import percent
from ffn_probe.figures.site_formats import KEYS, SiteFormats
from ffn_probe.figures.theme import CANDIDATE, REFERENCE

_ROW = 30  # px


@dataclass(frozen=True, slots=True)
class Lost:
    """Values that a format clamped to its largest number, and that it made zero."""

    key: str
    site: Site
    count: int
    clipped: int
    zeroed: int

    @property
    def clipped_share(self) -> float:
        """Of the values, 0..1; 0 for no values."""
        return self.clipped / self.count if self.count else 0.0

    @property
    def zeroed_share(self) -> float:
        """Of the values, 0..1; 0 for no values."""
        return self.zeroed / self.count if self.count else 0.0


def lost_values(sites: Sequence[SiteFormats]) -> tuple[Lost, ...]:
    """Return every format at every site where it was measured, the largest loss first."""
    found = [
        Lost(key, s.site, noise.count, noise.clipped, noise.zeroed)
        for s in sites
        for key, noise in s.noise.items()
    ]
    return tuple(
        sorted(found, key=lambda x: (-x.clipped_share - x.zeroed_share, x.key, x.site))
    )


def pooled(lost: Sequence[Lost], key: str) -> tuple[float, float]:
    """Return the shares that a format clips and makes zero over all its sites, 0..1."""
    mine = [entry for entry in lost if entry.key == key]
    count = sum(entry.count for entry in mine)
    if not count:
        return 0.0, 0.0
    return sum(e.clipped for e in mine) / count, sum(e.zeroed for e in mine) / count


def clipping_chart(lost: Sequence[Lost]) -> go.Figure:
    """Return for every format the shares of all values that it clips and makes zero."""
    found = {entry.key for entry in lost}
    keys = [key for key in dict.fromkeys((*KEYS, *sorted(found))) if key in found]
    shares = [pooled(lost, key) for key in keys]
    figure = go.Figure()
    for name, color, which, pattern in (
        ("clipped to the largest number", CANDIDATE, 0, "/"),
        ("made zero", REFERENCE, 1, ""),
    ):
        figure.add_bar(
            y=[escape(key) for key in keys], x=[100 * share[which] for share in shares],
            orientation="h", name=name,
            marker={"color": color, "pattern": {"shape": pattern, "solidity": 0.25}},
            text=[percent(share[which]) for share in shares], textposition="outside",
            cliponaxis=False, hovertemplate="%{y}: %{text} " + name + "<extra></extra>",
        )  # fmt: skip
    top = max([1.0, *(100 * v for share in shares for v in share)])
    figure.update_xaxes(title="share of the values", ticksuffix=" %", range=[0, 1.18 * top])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return framed(figure, height=100 + _ROW * max(len(keys), 2), barmode="group",
                  margin={"l": 118})  # fmt: skip

"""The slider over the practical thresholds: tried out here, never in a verdict."""

import json
from collections.abc import Mapping, Sequence

from dash import dcc, html

from dashboard.components.page import Content, Query, attrs
from ffn_probe.compare.tolerance import MULTIPLIERS
from ffn_probe.errors import UnknownName

KEY = "thr"
SLIDER = "threshold"
AS_JUDGED = MULTIPLIERS.index(1.0)
"""The step of the slider that verdicts are made at."""

Counts = Sequence[tuple[int, int]]


def multiplier_of(query: Query) -> float:
    """Return the factor on the thresholds that an address asks for, 1 without one.

    Raises:
        UnknownName: it is none that the slider has.
    """
    known = {written(m): m for m in MULTIPLIERS}
    text = query.get(KEY, "1")
    if text not in known:
        raise UnknownName.of("multiplier of the thresholds", text, known)
    return known[text]


def written(multiplier: float) -> str:
    """Return a multiplier as the address has it: "0.1", "2"."""
    return f"{multiplier:g}"


def slider(multiplier: float, counts: Counts) -> Content:
    """Return the slider; `counts` are the failed and suspicious sites at each of its steps.

    `assets/threshold.js` moves it, with what stands in the page as data.
    """
    at = MULTIPLIERS.index(multiplier)
    field = dcc.Input(
        id=SLIDER, type="range", min=0, max=len(MULTIPLIERS) - 1, step=1, value=at
    )
    said = html.Output(
        verdict_at(multiplier, *counts[at]),
        className="told",
        htmlFor=SLIDER,
        **attrs(aria_live="polite"),
    )
    as_judged = html.Button(
        "1\u00d7", title="The thresholds of the verdict", **attrs(data_threshold_reset="")
    )
    return html.Div(
        [
            html.Label([html.Span("Thresholds \u00d7"), field]),
            said,
            as_judged,
            html.Span(
                "The verdict above, the reports and the command line use 1\u00d7.",
                className="dim",
            ),
        ],
        className="threshold" + " moved" * (multiplier != 1),
        **attrs(
            data_steps=json.dumps([written(m) for m in MULTIPLIERS]),
            data_counts=json.dumps([list(pair) for pair in counts]),
        ),
    )


def verdict_at(multiplier: float, fails: int, warns: int) -> str:
    """Return "3 fail, 5 suspicious at 2.0x the thresholds"."""
    return f"{fails} fail, {warns} suspicious at {multiplier:.2g}\u00d7 the thresholds"


def held(status: Content, steps: tuple[int, int]) -> Content:
    """Return a status that follows the slider; it fails at the first steps of it, and so on."""
    fails, warns = (str(step) for step in steps)
    return html.Span(status, className="held", **attrs(data_fails=fails, data_warns=warns))


def followed(cells: Mapping[str, object]) -> Content:
    """Return what the heatmap next to it shows at every step, for the slider."""
    return html.Div(className="heat-data", hidden=True, **attrs(data_heat=json.dumps(cells)))

"""What every measure, distance, floor and verdict means, and what it cannot see."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import pandas as pd
from dash import html

from dashboard.components.page import Content, Page, Query, page
from dashboard.components.table import table
from dashboard.data import Library
from ffn_probe.anatomy import ROLE_TEXT
from ffn_probe.compare import ASPECTS, STATISTICS
from ffn_probe.formats import FORMATS
from ffn_probe.measures import MEASURES
from ffn_probe.report.words import number

_ASPECTS: Mapping[str, tuple[str, str]] = {
    "nonfinite": (
        "NaN and Inf values that were finite before. One is enough to fail.",
        "Where a value was not finite in both runs, nothing else is compared.",
    ),
    "bulk": (
        "Whether most values moved: distances of the whole distributions.",
        "A few huge values; and every value may change while the distribution stays as it is.",
    ),
    "scale": (
        "RMS and mean: a gain, a shift.",
        "What keeps both, as a swap of two neurons does.",
    ),
    "tail": (
        "High quantiles of |x|: rare large values.",
        "What is rarer than 1 in 10,000; the largest value is under representability.",
    ),
    "sparsity": (
        "Exact zeros, values near zero, open gates.",
        "Which neurons they are: see channels.",
    ),
    "channels": (
        "Channels that changed alone: outliers, dead ones, one gain of many.",
        "Channels that were permuted look changed; a paired run and its autopsy tell.",
    ),
    "representability": (
        "Headroom and noise in number formats.",
        "Noise is predicted elementwise; what a kernel accumulates is not in it.",
    ),
}
"""Aspect -> what it sees, what it does not."""

_VERDICT = (
    "A change counts when it is over its practical threshold and over the noise floor of the "
    "two runs. Over both it is suspicious (WARN), from twice the threshold on it failed "
    "(FAIL); hard limits and new non-finite values fail at once. Without a floor nothing is "
    "worse than suspicious. The verdict is that of the "
    "worst site; the report, the command line and this dashboard use the same function."
)
_FLOOR = (
    "The floor is what two healthy runs of this size differ by through the choice of inputs "
    "alone. A run keeps its batches in 16 folds. Unpaired runs are split into halves of "
    "folds, again and again; in paired runs (equal inputs, fold by fold) folds swap sides. "
    "The floor is the 95 % quantile of these differences, widened for the number of sites "
    "looked at. With fewer than 8 folds there is none, and this is said. The smallest visible "
    "change is what such a comparison would report 4 times in 5."
)
_PAIRED = (
    "SQNR is signal power over error power in dB: 10 log10(sum a^2 / sum (b - a)^2). The own "
    "(local) error is the candidate's block on the reference's input; what it inherits is the "
    "rest; with their cross term they add up to the error end to end. The floor is the "
    "reference against itself with its batch split in two. Shares are Shapley values of error "
    "energies; intervals are a bootstrap over folds of sequences, 95 %."
)


def methods(library: Library, query: Query) -> Page:
    """Return the definitions; they are the same for every run."""
    del library, query
    return page(
        "Methods",
        (),
        html.H1("Methods"),
        *_verdicts(),
        *_comparison(),
        *_measures(),
        *_vocabulary(),
        html.P(_versions(), className="dim"),
        data={
            "measures": _measure_frame,
            "statistics": _statistic_frame,
        },
    )


def _verdicts() -> list[Content]:
    return [
        html.H2("Verdict"),
        html.P(_VERDICT),
        html.H2("Noise floor"),
        html.P(_FLOOR),
        html.H2("Two models on the same inputs"),
        html.P(_PAIRED),
    ]


def _comparison() -> list[Content]:
    seen = [[aspect, *_ASPECTS[aspect]] for aspect in ASPECTS]
    rows = [
        [s.name, s.aspect, s.label, s.unit, number(s.threshold), s.provenance]
        for s in STATISTICS
    ]
    return [
        html.H2("Aspects of a comparison"),
        table(("aspect", "what it sees", "what it cannot see"), seen, wrap=True,
              caption="Each is judged on its own; no single score sees them all."),
        html.H2("Statistics"),
        table(("name", "aspect", "what it is", "unit", "threshold", "source"), rows,
              right=(4,), wrap=True, caption="The practical thresholds, if none are given."),
    ]  # fmt: skip


def _measures() -> list[Content]:
    rows = [
        [m.name, m.label, html.Code(m.formula), m.unit, m.direction, m.source] for m in MEASURES
    ]
    return [
        html.H2("Measures of a site"),
        table(("name", "what it is", "formula", "unit", "unusual", "source"), rows, wrap=True,
              caption="Over finite values; one that does not apply is left out, not zero."),
    ]  # fmt: skip


def _vocabulary() -> list[Content]:
    roles = [[role, text] for role, text in ROLE_TEXT.items()]
    formats = [
        [f.name, f.kind, number(f.max), number(f.min_subnormal), str(f.mantissa_bits),
         str(f.block or "-"), f.source]
        for f in FORMATS.values()
    ]  # fmt: skip
    return [
        html.H2("Roles"),
        table(("role", "where it is seen"), roles, caption="In the order of the data flow."),
        html.H2("Number formats"),
        table(("format", "kind", "largest", "smallest", "mantissa bits", "block", "source"),
              formats, right=(2, 3, 4, 5), caption="Of a block format, those of its element."),
    ]  # fmt: skip


def _measure_frame() -> pd.DataFrame:
    names = ("name", "unit", "label", "formula", "source", "direction")
    return pd.DataFrame([{name: getattr(m, name) for name in names} for m in MEASURES])


def _statistic_frame() -> pd.DataFrame:
    names = ("name", "aspect", "unit", "label", "threshold", "provenance")
    return pd.DataFrame([{name: getattr(s, name) for name in names} for s in STATISTICS])


def _versions() -> str:
    found = []
    for name in ("ffn-probe", "dash", "plotly", "pandas", "pyarrow", "numpy", "scipy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return "Shown with " + ", ".join(found) + "."

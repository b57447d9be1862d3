"""A drift as Markdown, for a pull request."""

from collections.abc import Iterable, Sequence

from ffn_probe.anatomy import Site
from ffn_probe.compare import Drift
from ffn_probe.report.words import (
    counts,
    definitions,
    drifted,
    facts,
    number,
    place,
    shortened,
    times,
)

_ROWS = 20
_SIGNS = {"PASS": "\u2705", "WARN": "\u26a0\ufe0f", "FAIL": "\u274c"}
_SPECIAL = "\\`*_{}[]#|~$"


def to_markdown(drift: Drift) -> str:
    """Return GitHub-flavoured Markdown with the sections of the HTML report but pictures."""
    verdict = drift.verdict
    paired = "same inputs, paired fold by fold" if drift.paired else "not paired"
    parts = [
        f"## FFN drift: {_SIGNS[verdict.status]} {verdict.status}",
        escape(verdict.sentence),
        f"Reference {code(drift.a.name)}, candidate {code(drift.b.name)}; {paired}.",
        "\n".join(f"- **{note.level}**: {escape(note.text)}" for note in drift.validity),
        *_aspects(drift),
        *_sites(drift),
        _one_sided("reference", drift.only_a),
        _one_sided("candidate", drift.only_b),
        *_settings(drift),
        *_definitions(drift),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _aspects(drift: Drift) -> list[str]:
    rows = [(a, str(f), str(w)) for a, f, w in counts(drift)]
    return ["### By aspect", table(("aspect", "failed", "suspicious"), rows)]


def _sites(drift: Drift) -> list[str]:
    sites = drifted(drift, _ROWS)
    if not sites:
        return ["### Worst sites", "Every site passed."]
    head = ("status", "layer", "role", "aspect", "statistic", "value", "unit", "threshold",
            "floor", "times floor", "in words")  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (
            site.status, str(site.layer), place(site), change.aspect, change.statistic,
            number(change.value, signed=True), change.unit, number(change.threshold),
            number(change.floor), times(change), site.headline,
        )
        for site in sites
        for change in (site.worst,)
    ]  # fmt: skip
    total = sum(site.status != "PASS" for site in drift.sites)
    title = f"### Worst {len(sites)} of the {total} sites that did not pass"
    return [title, table(head, rows)]


def _one_sided(side: str, sites: Sequence[Site]) -> str:
    if not sites:
        return ""
    names = ", ".join(code(site.name) for site in sites[:_ROWS])
    more = f" and {len(sites) - _ROWS} more" if len(sites) > _ROWS else ""
    return f"Only in the {side} ({len(sites)}): {names}{more}"


def _settings(drift: Drift) -> list[str]:
    one, other = (facts(side.manifest, side.path) for side in (drift.a, drift.b))
    made = [(key, one[key], other[key]) for key in one]
    sides = (drift.a.name, drift.b.name)
    parts = ["### How the runs were made", table(("", *sides), made)]
    if drift.config_diff:
        parts += ["### Settings that differ", table(("setting", *sides), drift.config_diff)]
    return parts


def _definitions(drift: Drift) -> list[str]:
    head = ("statistic", "what it is", "aspect", "unit", "threshold", "where it comes from")
    defined = table(head, definitions(drift))
    return [f"<details><summary>Statistics and thresholds</summary>\n\n{defined}\n\n</details>"]


def escape(text: str) -> str:
    """Return text that Markdown and HTML take for text, on one line."""
    line = "".join("\\" + c if c in _SPECIAL else c for c in shortened(text))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Return a name in the type of code; HTML, as a code span takes no escapes."""
    return f"<code>{escape(text)}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of text."""
    lines = [map(escape, head), ["---"] * len(head), *(map(escape, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

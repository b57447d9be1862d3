"""Numbers and rows as the reports write them."""

from importlib.metadata import PackageNotFoundError, version

from ffn_probe.compare import STATISTICS, Change, Drift, SiteDrift, Statistic
from ffn_probe.figures.numbers import INFINITY, MINUS, number
from ffn_probe.runs import Manifest

__all__ = [
    "INFINITY",
    "MINUS",
    "TIMES",
    "counts",
    "definitions",
    "drifted",
    "facts",
    "legible",
    "number",
    "place",
    "shortened",
    "thresholds",
    "times",
    "written_by",
]

TIMES = "\u00d7"
_LONGEST = 240  # characters of a setting


def times(change: Change) -> str:
    """Return how many times its noise floor a change is; a dash where there is none."""
    if change.times_floor is None:
        return "-"
    return number(change.times_floor) + TIMES


def place(site: SiteDrift) -> str:
    """Return "hidden", with "#3" behind it for expert 3."""
    return site.role + (f"#{site.expert}" if site.expert >= 0 else "")


def legible(text: str) -> str:
    r"""Return text on one line; what does not print, or turns text around, as its escape.

    >>> print(legible("a\n b" + chr(27) + "[2J" + chr(0x202E)))
    a b\x1b[2J\u202e
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def shortened(text: str) -> str:
    """Return legible text, cut where a table could not hold it."""
    line = legible(text[: 4 * _LONGEST])
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "\u2026"


def written_by() -> str:
    """Return what writes the reports, with its version."""
    try:
        return f"ffn-probe {version('ffn-probe')}"
    except PackageNotFoundError:
        return "ffn-probe"


def counts(drift: Drift) -> list[tuple[str, int, int]]:
    """Return (aspect, failed sites, suspicious sites) for every aspect."""
    table: dict[str, tuple[set[str], set[str]]] = {}
    for site in drift.sites:
        for change in site.changes:
            failed, warned = table.setdefault(change.aspect, (set(), set()))
            if change.status == "FAIL":
                failed.add(site.name)
            elif change.status == "WARN":
                warned.add(site.name)
    return [(a, len(failed), len(warned - failed)) for a, (failed, warned) in table.items()]


def drifted(drift: Drift, most: int) -> tuple[SiteDrift, ...]:
    """Return the worst sites that did not pass, worst first."""
    return tuple(site for site in drift.worst(most) if site.status != "PASS")


def definitions(drift: Drift) -> list[tuple[str, ...]]:
    """Return (name, label, aspect, unit, threshold used, its provenance) of each statistic."""
    return [
        (entry.name, entry.label, entry.aspect, entry.unit, number(threshold), source)
        for entry, threshold, source in thresholds(drift)
    ]


def thresholds(drift: Drift) -> list[tuple[Statistic, float, str]]:
    """Return each statistic with the threshold that was used and its provenance."""
    used = {c.statistic: (c.threshold, c.provenance) for s in drift.sites for c in s.changes}
    return [(s, *used.get(s.name, (s.threshold, s.provenance))) for s in STATISTICS]


def facts(made: Manifest, folder: str) -> dict[str, str]:
    """Return how the run in `folder` was made, in words."""
    model = f"{made.model.get('class', '?')} {made.model.get('name', '')}".strip()
    size = made.model.get("parameters")
    return {
        "folder": folder,
        "recorded": made.created,
        "model": model + (f", {size:,} parameters" if isinstance(size, int) else ""),
        "dtype": str(made.model.get("dtype", "?")),
        "device": made.device,
        "data": f"{made.steps:,} steps, {made.tokens:,} tokens",
        "sampling": ", ".join(f"{key} {value}" for key, value in made.sampling.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in made.versions.items()),
    }

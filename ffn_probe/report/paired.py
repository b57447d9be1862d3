"""What a report of a paired run tells: its attribution, and what only the run itself holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ffn_probe.attribution.attribution import Attribution
from ffn_probe.attribution.pair_measures import pair_measures
from ffn_probe.errors import FfnProbeError
from ffn_probe.figures.gate_error import GateError
from ffn_probe.report.words import facts
from ffn_probe.runs import Run

_MANY = 240  # characters of one setting


@dataclass(frozen=True, slots=True)
class Story:
    """An attribution with the gates' histograms and how the run was made, where known."""

    attribution: Attribution
    gates: Mapping[tuple[int, str], GateError] = field(default_factory=dict)
    made: tuple[tuple[str, str, str], ...] = ()  # setting, reference, candidate
    pairs: pd.DataFrame | None = None
    problems: tuple[str, ...] = ()  # what a reader has to know before trusting the run
    path: str = ""  # of the run, "" for an attribution alone

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the attribution, and what is wrong with the run."""
        return tuple(dict.fromkeys((*self.problems, *self.attribution.notes)))

    @classmethod
    def of(cls, told: "Run | Attribution | Story") -> "Story":
        """Return the story of a paired run, or of an attribution alone.

        Raises:
            FfnProbeError: the run is of another kind.
        """
        if isinstance(told, Story):
            return told
        if isinstance(told, Attribution):
            return cls(told)
        if told.manifest.kind != "paired":
            raise FfnProbeError(
                f"{told.path} is a {told.manifest.kind} run: it tells nothing without a second "
                "one to compare it with"
            )
        return cls(
            told.explain(),
            _gates(told),
            _made(told),
            pair_measures(told),
            told.problems,
            told.path,
        )


def _gates(run: Run) -> dict[tuple[int, str], GateError]:
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in run.table("activation_error").to_dict("records"):
        place = (int(row["layer"]), str(row["block"]))
        found.setdefault(place, []).append({str(key): value for key, value in row.items()})
    return {place: GateError.of(*rows) for place, rows in found.items()}


def _made(run: Run) -> tuple[tuple[str, str, str], ...]:
    """Return (setting, reference, candidate); what both share stands under the reference."""
    paired = run.manifest.paired
    other = paired.get("candidate")
    candidate = other if isinstance(other, Mapping) else {}
    own = facts(run.manifest, run.path)
    theirs = facts(run.manifest.with_(model=dict(candidate)), run.path)
    rows = [
        (key, text, theirs[key] if key in {"model", "dtype"} else "")
        for key, text in own.items()
    ]
    if paired.get("swap"):
        rows.append(("swap", "", _said(paired["swap"])))
    rows += [
        (k, _said(paired[k]), "") for k in ("options", "factors", "floors") if paired.get(k)
    ]
    if run.manifest.command:
        rows.append(("command", run.manifest.command, ""))
    return tuple(row for row in rows if row[1] or row[2])


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        text = ", ".join(
            f"{key} {item}" for key, item in value.items() if item not in (None, "", [], {})
        )
    elif isinstance(value, list | tuple):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= _MANY else text[: _MANY - 1] + "\u2026"

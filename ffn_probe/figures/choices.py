"""What matters in choosing an activation and a norm for deployment, one row a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffn_probe.figures.factorial import Choice
from ffn_probe.figures.site_formats import INPUTS, SiteFormats, View, chosen_sites, survival
from ffn_probe.formats import FORMATS
from ffn_probe.runs import Run

_MEASURES = ("outlier_channels", "dead_share", "spike_ratio")
_LOSSES = ("eval_loss", "val_loss", "loss")
_TAGS = ("eval_loss", "val_loss", "held_back_loss", "loss")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recorded choice and its numbers; NaN where one is not known.

    `room_fp16` and `room_e4m3` are limit over largest |x|, the least of all sites; the SQNR
    (dB) and crest are those of the worst layer at `hidden`; `worst_db` is the worst site that a
    matrix product reads in the format asked for, `feasible` whether it keeps the target.
    """

    run: str
    choice: Choice
    parameters: int
    loss: float
    loss_name: str
    room_fp16: float
    room_e4m3: float
    hidden_int8_tensor: float
    hidden_int8_token: float
    hidden_e4m3_tensor: float
    hidden_crest: float
    outlier_channels: float
    dead_share: float
    spike_ratio: float
    worst_db: float
    feasible: bool


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a candidate does not depend on the format asked for."""

    choice: Choice
    parameters: int
    loss: tuple[float, str]
    formats: tuple[SiteFormats, ...]
    largest: dict[str, float]


def traits(run: Run, formats: Sequence[SiteFormats]) -> Traits:
    """Return what is read of a run once."""
    frame = run.measures(_MEASURES)
    largest = {}
    for name in _MEASURES:
        rows = frame[frame["measure"] == name]
        if name == "dead_share":
            rows = rows[rows["role"] == "hidden"]
        largest[name] = float(rows["value"].max()) if len(rows) else math.nan
    size = run.manifest.model.get("parameters")
    count = size if isinstance(size, int) else 0
    return Traits(Choice.of(run), count, recorded_loss(run), tuple(formats), largest)


def candidate(name: str, found: Traits, *, key: str, target: float) -> Candidate:
    """Return a run as a candidate for a format at a target SQNR in dB."""
    formats = found.formats
    hidden = [s for s in formats if s.site.role == "hidden"]
    top = max((s.absmax for s in formats if s.absmax > 0), default=math.nan)
    kept = survival(chosen_sites(formats, role="inputs"), key, target, _view(formats, key))
    loss, loss_name = found.loss
    return Candidate(
        run=name,
        choice=found.choice,
        parameters=found.parameters,
        loss=loss,
        loss_name=loss_name,
        room_fp16=FORMATS["fp16"].max / top,
        room_e4m3=FORMATS["e4m3fn"].max / top,
        hidden_int8_tensor=_worst(hidden, "int8:tensor"),
        hidden_int8_token=_worst(hidden, "int8:token"),
        hidden_e4m3_tensor=_worst(hidden, "e4m3fn:tensor"),
        hidden_crest=max((s.crest for s in hidden if s.crest > 0), default=math.nan),
        outlier_channels=found.largest["outlier_channels"],
        dead_share=found.largest["dead_share"],
        spike_ratio=found.largest["spike_ratio"],
        worst_db=kept.worst_db if kept else math.nan,
        feasible=bool(kept and not kept.lost),
    )


def recorded_loss(run: Run) -> tuple[float, str]:
    """Return the loss of a run and what it is called: a metric's mean, else a tag's number."""
    frame = run.table("metrics")
    for name in _LOSSES:
        values = frame[frame["name"] == name]["value"]
        if len(values):
            return float(values.mean()), f"mean {name}"
    for name in _TAGS:
        try:
            return float(run.manifest.tags[name]), f"tag {name}"
        except (KeyError, ValueError):
            continue
    return math.nan, ""


def missing_inputs(formats: Sequence[SiteFormats]) -> tuple[str, ...]:
    """Return the roles that a matrix product reads and that were not recorded."""
    there = {s.site.role for s in formats}
    return tuple(role for role in INPUTS if role not in there)


def _view(formats: Sequence[SiteFormats], key: str) -> View:
    return "measured" if any(key in s.noise for s in formats) else "predicted"


def _worst(sites: Sequence[SiteFormats], key: str) -> float:
    found = survival(sites, key, 0.0, _view(sites, key))
    return math.nan if found is None else found.worst_db

"""The 2 x 2 of recorded runs: two norms by two activations, on any measure of a role."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from ffn_probe.anatomy import Site
from ffn_probe.attribution.attribution import Factorial
from ffn_probe.attribution.bootstrap import LEAST_FOLDS
from ffn_probe.attribution.factorial import factorial
from ffn_probe.measures import Measure, MeasureInput, measure
from ffn_probe.runs import Run
from ffn_probe.sketches import (
    BitHistogram,
    Channels,
    Extremes,
    Moments,
    QuantNoise,
    Summary,
)

Spread = Literal["folds", "layers", "none"]

SPREADS: Mapping[str, str] = {
    "folds": "over the folds of the inputs",
    "layers": "over the layers, as this measure is not kept by fold",
    "none": "not available: this measure is kept by fold nowhere, and there are few layers",
}
"""What the intervals of the effects are resampled over."""

CELLS = ("v00", "v10", "v01", "v11")
"""First norm and activation, other norm, other activation, both other."""

_LARGEST = ("absmax", "crest", "spike_ratio", "exponent_range", "sqnr_int8_law")
_NOISE = "noise / signal"


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What the blocks of a run were built with."""

    norm: str
    activation: str

    @classmethod
    def of(cls, run: Run) -> "Choice":
        """Return the choice of a run; several kinds in one run are named together."""
        norms = dict.fromkeys(block.norm.kind for block in run.blocks)
        acts = dict.fromkeys(f"{block.activation} {block.kind}" for block in run.blocks)
        return cls(", ".join(norms) or "none", ", ".join(acts) or "none")


@dataclass(frozen=True, slots=True)
class Level:
    """A measure of one role of one layer: of the whole run, and of each fold that has it.

    A mixture holds the mean over its experts. Levels in dB were made noise powers over signal
    powers, which add.
    """

    layer: int
    value: float
    folds: Mapping[int, float]


# ---- the levels of one run --------------------------------------------------------------


def added_unit(entry: Measure) -> str:
    """Return the unit in which a measure is compared: dB do not add, noise powers do."""
    return _NOISE if entry.unit == "dB" else "" if entry.unit == "1" else entry.unit


def levels(run: Run, name: str, role: str) -> tuple[Level, ...]:
    """Return a measure of a role by layer; layers where it does not apply are left out.

    Raises:
        UnknownName: no measure has that name.
    """
    entry = measure(name)
    found: dict[int, list[tuple[float, dict[int, float]]]] = {}
    for site in run.sites:
        if site.role != role:
            continue
        value = _value(run, entry, site, None)
        if value is not None:
            found.setdefault(site.layer, []).append((value, _by_fold(run, entry, site)))
    return tuple(_mean(layer, parts) for layer, parts in sorted(found.items()))


def _mean(layer: int, parts: Sequence[tuple[float, dict[int, float]]]) -> Level:
    common = set[int].intersection(*(set(folds) for _, folds in parts))
    folds = {k: math.fsum(f[k] for _, f in parts) / len(parts) for k in sorted(common)}
    return Level(layer, math.fsum(value for value, _ in parts) / len(parts), folds)


def _by_fold(run: Run, entry: Measure, site: Site) -> dict[int, float]:
    folds = [fold for fold in run.load("moments").get(site, {}) if fold >= 0]
    found = {fold: _value(run, entry, site, fold) for fold in sorted(folds)}
    return {fold: value for fold, value in found.items() if value is not None}


def _value(run: Run, entry: Measure, site: Site, fold: int | None) -> float | None:
    """Return a measure of a site, of one fold or (None) of the whole run."""
    beside = _Beside(run, site, fold)
    block = next((block for block in run.blocks if block.name == site.block), None)
    value = entry.of(MeasureInput(beside[site.role], site.role, block, beside))
    if value is None or math.isnan(value):
        return None
    return 10 ** (-value / 10) if entry.unit == "dB" else float(value)


class _Beside(Mapping[str, Summary]):
    """The summaries of a site's block by role, each made when a measure asks for it."""

    def __init__(self, run: Run, site: Site, fold: int | None) -> None:
        self._run, self._fold = run, fold
        self._sites = {
            other.role: other
            for other in run.sites
            if other.block == site.block and other.expert in {-1, site.expert}
        }

    def __getitem__(self, role: str) -> Summary:
        other = self._sites[role]
        if self._fold is None:
            return self._run.summary(other)
        return _of_fold(self._run, other, self._fold)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


def _of_fold(run: Run, site: Site, fold: int) -> Summary:
    """Return what is kept of one fold; channels and joint tables are kept of halves or all."""

    def part(table: str) -> Any:
        return run.load(table).get(site, {}).get(fold)

    return Summary(
        0, 0, part("moments") or Moments.empty(), part("histograms") or BitHistogram.empty(),
        Channels.empty(0), part("extremes") or Extremes.empty(), None,
        part("quant") or QuantNoise.empty(), "",
    )  # fmt: skip


# ---- effects ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Effects:
    """The 2 x 2 of one layer (or of all, pooled: layer -1) and what its intervals rest on."""

    layer: int
    factorial: Factorial
    spread: Spread


def pooled_effects(
    cells: Mapping[str, Sequence[Level]], entry: Measure, factors: tuple[str, str]
) -> Effects | None:
    """Return the effects on the mean over the layers that all four cells have; None for none.

    The values are those of the whole runs; the interval is from folds where the measure is
    kept by fold, else from the layers.
    """
    layers = _common(cells)
    if not layers:
        return None
    table = {name: [_at(found, layer) for layer in layers] for name, found in cells.items()}
    whole = {n: np.array([level.value for level in found]) for n, found in table.items()}
    means = {name: float(values.mean()) for name, values in whole.items()}
    folds = _folds(level for found in table.values() for level in found)
    if len(folds) >= LEAST_FOLDS:
        by_fold = {
            name: np.array([[level.folds[k] for k in folds] for level in found]).mean(0)
            for name, found in table.items()
        }
        return _effects(-1, _moved(by_fold, means, entry), entry, factors, "folds")
    if len(layers) >= LEAST_FOLDS:
        return _effects(-1, whole, entry, factors, "layers")
    return _effects(-1, {n: np.array([v]) for n, v in means.items()}, entry, factors, "none")


def layer_effects(
    cells: Mapping[str, Sequence[Level]], entry: Measure, factors: tuple[str, str]
) -> tuple[Effects, ...]:
    """Return the effects in every layer that all four cells have."""
    found = []
    for layer in _common(cells):
        table = {name: _at(levels_, layer) for name, levels_ in cells.items()}
        folds = _folds(table.values())
        means = {name: level.value for name, level in table.items()}
        if len(folds) >= LEAST_FOLDS:
            by_fold = {n: np.array([x.folds[k] for k in folds]) for n, x in table.items()}
            made = _effects(layer, _moved(by_fold, means, entry), entry, factors, "folds")
        else:
            alone = {n: np.array([v]) for n, v in means.items()}
            made = _effects(layer, alone, entry, factors, "none")
        found.append(made)
    return tuple(found)


def _effects(
    layer: int,
    cells: Mapping[str, Float64[np.ndarray, " _"]],
    entry: Measure,
    factors: tuple[str, str],
    spread: Spread,
) -> Effects:
    made = factorial(cells, factors=factors, metric=entry.label, unit=added_unit(entry))
    return Effects(layer, made, spread)


def _moved(
    by_fold: Mapping[str, Float64[np.ndarray, " folds"]],
    means: Mapping[str, float],
    entry: Measure,
) -> dict[str, Float64[np.ndarray, " folds"]]:
    """Return the folds about the value of the whole run.

    The mean of folds is not the whole's for most measures (a largest value, a quantile); their
    spread tells the noise. That of a largest value does not shrink with the data, so it is
    widened by what averaging over the folds would take from it.
    """
    size = len(next(iter(by_fold.values())))
    largest = entry.name in _LARGEST or entry.name.startswith("headroom_")
    largest |= entry.name.endswith("_predicted")
    factor = math.sqrt(size) if largest else 1.0
    return {n: means[n] + factor * (values - values.mean()) for n, values in by_fold.items()}


def _folds(found: Iterable[Level]) -> list[int]:
    """Return the folds that all levels have."""
    keys = [set(level.folds) for level in found]
    return sorted(set[int].intersection(*keys)) if keys else []


def _common(cells: Mapping[str, Sequence[Level]]) -> list[int]:
    if set(cells) != set(CELLS):
        return []
    return sorted(set[int].intersection(*({x.layer for x in c} for c in cells.values())))


def _at(found: Sequence[Level], layer: int) -> Level:
    return next(level for level in found if level.layer == layer)

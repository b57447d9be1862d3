"""Theory beside what was seen, for one block: norm, activation, moments, formats, powers."""

import math
from collections.abc import Iterator, Mapping, Sequence

from ffn_probe.attribution.attribution import (
    EXPECTED,
    INDISTINGUISHABLE,
    UNEXPLAINED,
    BlockAttribution,
    Theory,
)
from ffn_probe.attribution.bootstrap import ratio
from ffn_probe.attribution.floors import DRIFT, MARGIN_DB, above, sqnr_db
from ffn_probe.attribution.pair_tables import Effect, PairTables
from ffn_probe.attribution.regions import gate_errors
from ffn_probe.attribution.theory import verdict

TOLERANCE_DB = 0.5
"""Two levels of an error agree when their powers are within 12 %."""

_LAW_DB = {"e4m3": 1.0}
"""The law of e4m3 takes the values for dense and smooth in every octave: seven densities read
31.5-31.9 dB, and rows of a hundred channels up to 32.0."""

TOLERANCE = 0.1
"""A ratio or mean agrees with theory within 10 % of it, or when its interval holds it."""

_SOURCES: Mapping[str, str] = {
    "norm": "LN = sqrt(1 + r^2) RMS - r 1, from the tokens' r = mean / std",
    "activation": "the two activations' formulas at the gate's values",
    "mean_hidden": "E[h] = rho s_g s_u / 2 (Stein's identity)",
    "std_ratio": "sqrt(2/3 E[h^2] of the GLU / E[h^2] of the MLP) at the gate's std",
    "int8": "52.87 - 20 log10(absmax / RMS)",
    "int4": "27.69 - 20 log10(absmax / RMS)",
    "e4m3": "16 ln 4 * 4^3 = 31.5 dB on any smooth density",
    "power_sum": "independent error powers add",
}


def theory_of(tables: PairTables, block: str = "") -> tuple[Theory, ...]:
    """Return what theory expects of a block (of the whole model: "") beside what was seen."""
    found = [*_norm(tables, block), *_activation(tables, block)]
    for part, metrics in tables.effects("theory", block).items():
        if {"expected_error", "error", "energy"} <= metrics.keys():
            found.append(_format(tables, block, part, metrics))
        elif {"expected", "observed"} <= metrics.keys():
            found.append(_number(part, metrics["expected"], metrics["observed"]))
    return tuple(found)


def part_of(theory: Theory, block: BlockAttribution) -> str:
    """Return the part or stage whose error a theory tells, "" where it tells none.

    A format's law ("int8:hidden", "e4m3:w_up") tells what is stored at that role or part.
    """
    if theory.name in {"norm", "activation"}:
        return theory.name
    place = theory.name.partition(":")[2]
    return next((s.stage for s in block.stages if s.role == place), place)


# Levels in dB


def _norm(tables: PairTables, block: str) -> Iterator[Theory]:
    parts = tables.effects("norm", block)
    energies = {name: parts.get(name, {}).get("error") for name in ("observed", "predicted")}
    energy = parts.get("energy", {})
    signal = energy.get("error") or energy.get("energy")
    observed, predicted = energies["observed"], energies["predicted"]
    if observed is None or predicted is None or signal is None:
        return
    yield _level(
        "norm", predicted.total, observed.total, signal.total,
        floor=tables.floor_db(block, "normed"),
    )  # fmt: skip


def _activation(tables: PairTables, block: str) -> Iterator[Theory]:
    frame = tables.frames["activation_error"]
    rows = frame[frame["block"] == block]
    role = next((r for r in ("gate_act", "hidden") if tables.site(block, r, "stage")), "")
    site = tables.site(block, role, "stage") if role else None
    if rows.empty or site is None:
        return
    _, _, expected, observed = gate_errors(rows).sum(1).tolist()
    if expected or observed:
        signal = site.total("energy_a")
        floor = tables.floor_db(block, role)
        yield _level("activation", expected, observed, signal, floor=floor)


def _format(tables: PairTables, block: str, part: str, metrics: Mapping[str, Effect]) -> Theory:
    role = part.partition(":")[2]
    energies = [metrics[name].total for name in ("expected_error", "error", "energy")]
    floor = tables.floor_db(block, role)
    tolerance = _LAW_DB.get(part.partition(":")[0], TOLERANCE_DB)
    return _level(part, *energies, floor=floor, tolerance=tolerance)


def _level(
    name: str,
    expected: float,
    observed: float,
    signal: float,
    *,
    floor: float,
    tolerance: float = TOLERANCE_DB,
) -> Theory:
    """Return the theory of an error energy, as SQNR in dB."""
    levels = sqnr_db(signal, expected), sqnr_db(signal, observed)
    hidden = [level >= floor - MARGIN_DB for level in levels]
    word = verdict(*levels, tolerance=tolerance)
    if hidden[1] and (hidden[0] or word != EXPECTED):
        word = INDISTINGUISHABLE
    said = f"{_db(levels[0])} expected, {_db(levels[1])} seen, floor {_db(floor)}"
    return Theory(
        name, *levels, "dB", tolerance, word, _sentence(name, word, said), _source(name)
    )


# Numbers


def _number(name: str, expected: Effect, observed: Effect) -> Theory:
    """Return the theory of a mean or ratio; the interval of the seen one may hold theory's."""
    theory, seen = expected.mean, ratio(observed.values, observed.counts)
    tolerance = TOLERANCE * abs(theory)
    if not math.isnan(seen.low):
        tolerance = max(tolerance, seen.high - seen.value, seen.value - seen.low)
    word = verdict(theory, seen.value, tolerance=tolerance)
    said = f"{theory:.4g} expected, {seen.value:.4g} seen"
    return Theory(
        name, theory, seen.value, _unit(name), tolerance, word, _sentence(name, word, said),
        _source(name),
    )  # fmt: skip


def _unit(name: str) -> str:
    if name.startswith("mean_hidden"):
        return "unit of the tensor"
    return "unit of the tensor^2" if name == "power_sum" else "ratio"


def _source(name: str) -> str:
    return next((text for key, text in _SOURCES.items() if name.startswith(key)), "")


def _sentence(name: str, word: str, said: str) -> str:
    ends = {EXPECTED: "as theory says", INDISTINGUISHABLE: "nothing above the floor"}
    return f"{name.replace('_', ' ')}: {said}: {ends.get(word, 'theory does not tell it')}"


def _db(value: float) -> str:
    return f"{value:.1f} dB"


# Is it told?


def told_by_theory(blocks: Sequence[BlockAttribution]) -> str:
    """Return "expected" when theory tells every part that makes a block's own error.

    "unexplained" when theory says another level than was seen for one of them, "" when a part
    has no theory (or no block has an error of its own).
    """
    own = [b for b in blocks if above(b.local_db, b.floor_db)]
    words: set[str] = set()
    for block in own:
        told = [(part_of(t, block), t.verdict) for t in block.theory if t.unit == "dB"]
        for part in _makers(block):
            words |= {word for name, word in told if name == part} or {""}
    if UNEXPLAINED in words:
        return UNEXPLAINED
    return EXPECTED if words == {EXPECTED} else ""


def _makers(block: BlockAttribution) -> set[str]:
    """Return the parts that make a tenth or more of a block's own error."""
    if block.causes:
        return {c.part for c in block.causes if c.share.value >= TOLERANCE}
    return {s.stage for s in block.stages if s.status == DRIFT}

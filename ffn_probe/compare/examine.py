"""Compare the evidence of two sites: one Change for every statistic that applies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ffn_probe.compare.change import Change, Status, judged, times
from ffn_probe.compare.channel_panel import ChannelPanel
from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.floor import Noise, noise_of, site_noise
from ffn_probe.compare.panel import Parts, Reference, differences, distances, levels
from ffn_probe.compare.statistic import BY_NAME, STATISTICS, Statistic
from ffn_probe.compare.support import laid_out
from ffn_probe.formats import FORMATS

LIMITS: Mapping[str, str] = {"headroom_fp16": "fp16", "headroom_e4m3fn": "e4m3fn"}
"""Statistic -> the format whose largest number must not be passed."""

_SQNR_BITS = 5  # the noise of values in a bin of 1/32 is that of values spread evenly
_MANY_BINS = 1024
_ROUNDING = 1e-9  # in the units of the statistics; sums in another order differ by 1e-12
_DB_PER_OCTAVE = 20 * math.log10(2.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for all sites of a comparison."""

    thresholds: Mapping[str, tuple[float, str]]
    paired: bool
    sites: int


@dataclass(frozen=True, slots=True)
class Found:
    """A value and what it is made of, in words."""

    value: float
    detail: str


def examine(
    a: Evidence, b: Evidence, *, role: str, setting: Setting, repeat: Evidence | None = None
) -> tuple[Change, ...]:
    """Return the changes from `a` to `b`, in the order of STATISTICS.

    A site without finite values on either side has its non-finite values and one bulk
    change, NaN, that says so.
    """
    folds = min(len(a.folds), len(b.folds))
    first = _nonfinite(a, b, setting, folds)
    if not (a.whole.count and b.whole.count):
        return first, _without_values(a, b, setting, folds)
    reference = _reference(a, b, gate=role in BY_NAME["gate_open"].roles)
    channels = ChannelPanel.of(a, b, paired=setting.paired)
    found = values(a, b, reference, channels)
    again = {}
    if repeat is not None and repeat.whole.count:
        repeated = ChannelPanel.of(a, repeat, paired=True)
        shown = values(a, repeat, reference, repeated)
        again = {name: abs(f.value) for name, f in shown.items()}
    chance = site_noise(a, b, reference, paired=setting.paired)
    if chance is not None and channels is not None:
        chance |= channels.noise()
    chance = chance or {}
    if "crest" in chance:
        # A crest one octave higher costs a uniform quantizer 6.02 dB.
        chance |= {"int8_sqnr_drop": _DB_PER_OCTAVE * chance["crest"]}
    changes = [first]
    for entry in STATISTICS:
        if entry.name in LIMITS:
            changes.append(_headroom(entry, a, b, chance, again, setting, folds))
        elif entry.name in found:
            noise = _noise(entry, chance, setting, folds)
            changes.append(
                _change(entry, found[entry.name], noise, again.get(entry.name), setting, folds)
            )
    return tuple(changes)


def values(
    a: Evidence, b: Evidence, reference: Reference, channels: ChannelPanel | None
) -> dict[str, Found]:
    """Return statistic -> signed value and detail, from all folds at full resolution."""
    support, counts = laid_out((a.whole, b.whole))
    scalars = np.array([_scalars(a), _scalars(b)])
    cdf = np.cumsum(counts, axis=1)
    cdf /= cdf[:, -1:]
    parts = Parts(cdf, scalars[:, 0], scalars[:, 1], scalars[:, 2])
    level = levels(support, parts, gate=reference.gate)
    left = {name: numbers[:1] for name, numbers in level.items()}
    right = {name: numbers[1:] for name, numbers in level.items()}
    signed = differences(left, right, reference)
    apart = distances(support, parts.take(slice(0, 1)), parts.take(slice(1, 2)), reference)
    found = {name: Found(float(value[0]), "") for name, value in apart.items()}
    for name, value in signed.items():
        found[name] = Found(float(value[0]), _from_to(*level[name]))
    before, after = _int8_sqnr(a), _int8_sqnr(b)
    drop = 0.0 if before == after else before - after
    found["int8_sqnr_drop"] = Found(drop, f"{_from_to(before, after)} dB")
    if channels is not None:
        for name, change in channels.changes().items():
            found[name] = Found(change.value, change.detail)
    return found


# ---- parts ------------------------------------------------------------------------------


def _scalars(x: Evidence) -> tuple[float, float, float]:
    """Return mean, RMS and absmax of all folds."""
    count = x.count.sum()
    if count == 0:
        return math.nan, math.nan, math.nan
    mean = float((x.count * x.mean).sum() / count)
    square = float((x.m2 + x.count * x.mean**2).sum() / count)
    return mean, math.sqrt(square), float(x.absmax.max())


def _from_to(before: float, after: float) -> str:
    return f"{before:.4g} -> {after:.4g}"


def _int8_sqnr(x: Evidence) -> float:
    """Return the SQNR at one scale a tensor, dB; from coarser bins when there are many."""
    top = float(x.absmax.max())
    if not 0 < top < math.inf:
        return math.nan
    many = x.whole.codes.size > _MANY_BINS and x.whole.bits > _SQNR_BITS
    histogram = x.whole.coarsen(_SQNR_BITS) if many else x.whole
    return histogram.sqnr_db(FORMATS["int8"], top / 127.0)


def _reference(a: Evidence, b: Evidence, *, gate: bool) -> Reference:
    mean, rms, _ = _scalars(a)
    std = math.sqrt(max(rms * rms - mean * mean, 0.0))
    scale = a.whole.robust_sigma() or b.whole.robust_sigma()
    return Reference(scale, std, gate)


def _noise(
    entry: Statistic, chance: Mapping[str, float], setting: Setting, folds: int
) -> Noise | None:
    if entry.name not in chance:
        return None
    return noise_of(
        chance[entry.name],
        folds=folds,
        sites=setting.sites,
        paired=setting.paired,
        extreme=entry.extreme,
    )


def _change(
    entry: Statistic,
    found: Found,
    noise: Noise | None,
    repeat_floor: float | None,
    setting: Setting,
    folds: int,
) -> Change:
    threshold, provenance = setting.thresholds[entry.name]
    floor = noise.floor if noise else None
    value = 0.0 if abs(found.value) < _ROUNDING else found.value
    return Change(
        aspect=entry.aspect,
        statistic=entry.name,
        value=value,
        unit=entry.unit,
        threshold=threshold,
        provenance=provenance,
        floor=floor,
        times_floor=times(value, floor),
        repeat_floor=repeat_floor,
        mde=noise.mde(threshold) if noise else None,
        folds=folds,
        status=judged(
            entry.size(value),
            threshold,
            floor=floor,
            repeat_floor=repeat_floor,
            hard=entry.hard,
        ),
        detail=found.detail,
    )


def _nonfinite(a: Evidence, b: Evidence, setting: Setting, folds: int) -> Change:
    """Return the change of the non-finite counts over all rows; new ones are a FAIL."""
    entry = BY_NAME["nonfinite"]
    threshold, provenance = setting.thresholds["nonfinite"]
    expected = a.nonfinite * (_rows(b) / _rows(a)) if _rows(a) else 0.0
    value = b.nonfinite - expected
    status: Status = "PASS"
    if value > max(threshold, expected):
        status = "FAIL"
    elif value > threshold:
        status = "WARN"
    detail = f"NaN {a.nan} -> {b.nan}, +Inf {a.pos_inf} -> {b.pos_inf}"
    detail += f", -Inf {a.neg_inf} -> {b.neg_inf}"
    return Change(
        entry.aspect, entry.name, value, entry.unit, threshold, provenance,
        None, None, None, None, folds, status, detail,
    )  # fmt: skip


def _rows(x: Evidence) -> int:
    return x.seen + x.nonfinite


def _without_values(a: Evidence, b: Evidence, setting: Setting, folds: int) -> Change:
    """Return the bulk change of a site that has no finite values on one side, or on both."""
    entry = BY_NAME["w1_asinh"]
    threshold, provenance = setting.thresholds[entry.name]
    empty = [side for side, x in (("reference", a), ("candidate", b)) if not x.whole.count]
    status: Status = "WARN" if len(empty) == 1 else "PASS"
    return Change(
        entry.aspect, entry.name, math.nan, entry.unit, threshold, provenance,
        None, None, None, None, folds, status,
        f"no finite values in the {' and the '.join(empty)}",
    )  # fmt: skip


def _headroom(
    entry: Statistic,
    a: Evidence,
    b: Evidence,
    chance: Mapping[str, float],
    again: Mapping[str, float],
    setting: Setting,
    folds: int,
) -> Change:
    """Return how far b's largest |x| is towards a format's largest number.

    Judged only when the reference was within it. The floor is what the reference could
    reach by the noise of its largest value.
    """
    limit = FORMATS[LIMITS[entry.name]].max
    threshold, _ = setting.thresholds[entry.name]
    before, after = float(a.absmax.max()) / limit, float(b.absmax.max()) / limit
    octaves = _noise(
        BY_NAME["crest"], {"crest": chance.get("absmax", math.nan)}, setting, folds
    )
    noise = None
    if octaves is not None:
        noise = Noise(*(_risen(before, x) for x in (octaves.quantile, octaves.floor)))
    repeat_floor = _risen(before, again["absmax"]) if "absmax" in again else None
    change = _change(
        entry, Found(after, f"{before:.4g} -> {after:.4g}"), noise, repeat_floor, setting, folds
    )
    if before <= threshold:
        return change
    return Change(
        change.aspect, change.statistic, change.value, change.unit, change.threshold,
        change.provenance, change.floor, change.times_floor, change.repeat_floor, change.mde,
        change.folds, "PASS", f"{change.detail}; beyond the format in the reference already",
    )  # fmt: skip


def _risen(level: float, octaves: float) -> float:
    """Return the level after a rise of that many octaves, inf when it overflows."""
    return level * 2.0**octaves if octaves < 1000 else math.inf

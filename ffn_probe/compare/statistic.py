"""The statistics that are compared, with default thresholds and where these come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ffn_probe.errors import CompareError, UnknownName


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number about a pair of sites.

    `one_sided` statistics matter only when positive; `extreme` ones are made of a largest
    value, whose noise does not shrink with more data; a `hard` threshold is a limit, beyond
    which a change fails at once; `roles` are where they apply, () all.
    """

    name: str
    aspect: str
    unit: str
    label: str
    threshold: float
    provenance: str
    one_sided: bool = False
    extreme: bool = False
    hard: bool = False
    roles: tuple[str, ...] = ()

    def size(self, value: float) -> float:
        """Return what is held against the threshold: |value|, or value when one-sided."""
        return value if self.one_sided else abs(value)


_TENTH = math.log2(1.1)

STATISTICS: tuple[Statistic, ...] = (
    Statistic(
        "nonfinite", "nonfinite", "values", "new NaN and Inf values", 0.0,
        "any value that was finite before", one_sided=True,
    ),
    Statistic(
        "w1_asinh", "bulk", "1", "Wasserstein-1 of asinh(x / robust sigma)", 0.1,
        "Evidently's default 0.1 for W1/std; measured: x1.05 gives 0.03, x1.30 gives 0.15",
    ),
    Statistic(
        "ks", "bulk", "1", "Kolmogorov-Smirnov distance", 0.05,
        "judgement; measured: x1.05 gives 0.014, x1.30 gives 0.058",
    ),
    Statistic(
        "psi", "bulk", "nats", "population stability index", 0.1,
        "convention: 0.1 is a moderate shift, 0.25 a large one",
    ),
    Statistic(
        "rms", "scale", "octaves", "RMS ratio", _TENTH, "judgement: 10 %",
    ),
    Statistic(
        "mean", "scale", "reference sigmas", "shift of the mean", 0.1,
        "judgement: half of Cohen's small effect 0.2",
    ),
    Statistic(
        "p99", "tail", "octaves", "ratio of p99 of |x|", _TENTH, "judgement: 10 %",
    ),
    Statistic(
        "p99_9", "tail", "octaves", "ratio of p99.9 of |x|", 0.2,
        "judgement: 15 %; measured: 0.1 % of values x20 give 0.28",
    ),
    Statistic(
        "p99_99", "tail", "octaves", "ratio of p99.99 of |x|", 0.5, "judgement: 40 %",
    ),
    Statistic(
        "zero_share", "sparsity", "share", "exact zeros", 0.01, "judgement: 1 point",
    ),
    Statistic(
        "near_zero_share", "sparsity", "share", "values within 1 % of the RMS", 0.02,
        "judgement: 2 points",
    ),
    Statistic(
        "gate_open", "sparsity", "share", "gates above zero", 0.02, "judgement: 2 points",
        roles=("gate",),
    ),
    Statistic(
        "channel_rms", "channels", "octaves", "largest RMS ratio of a channel", 0.5,
        "judgement: 40 % in one channel",
    ),
    Statistic(
        "dead_channels", "channels", "share", "channels that died or revived", 0.001,
        "judgement: 1 in 1,000; dead is absmax <= 1e-3 of the typical RMS",
    ),
    Statistic(
        "outlier_channels", "channels", "channels", "channels that became or ceased outliers",
        0.5, "any; an outlier has 6 times the typical RMS (Dettmers et al. 2022)",
    ),
    Statistic(
        "headroom_fp16", "representability", "1", "largest |x| over fp16's 65504", 1.0,
        "IEEE 754 binary16: beyond it is infinity", hard=True,
    ),
    Statistic(
        "headroom_e4m3fn", "representability", "1", "largest |x| over e4m3's 448", 1.0,
        "OCP FP8: beyond it is clipped unless scaled",
    ),
    Statistic(
        "crest", "representability", "octaves", "ratio of absmax / RMS", 0.5,
        "judgement: 3 dB, half a bit of int8", extreme=True,
    ),
    Statistic(
        "int8_sqnr_drop", "representability", "dB", "drop of the predicted int8 SQNR", 3.0,
        "judgement: half a bit", one_sided=True, extreme=True,
    ),
)  # fmt: skip
"""Every statistic, in the order of the tables."""

BY_NAME: Mapping[str, Statistic] = {entry.name: entry for entry in STATISTICS}


def chosen_thresholds(
    given: Mapping[str, float] | None,
) -> dict[str, tuple[float, str]]:
    """Return name -> (threshold, provenance) with the caller's in place of the defaults.

    Raises:
        UnknownName: no statistic has the name.
        CompareError: a threshold is not a number of at least 0.
    """
    chosen = {entry.name: (entry.threshold, entry.provenance) for entry in STATISTICS}
    for name, value in (given or {}).items():
        if name not in chosen:
            raise UnknownName.of("statistic", name, chosen)
        number = float(value) if isinstance(value, int | float) else math.nan
        if not 0 <= number < math.inf:
            raise CompareError(f"the threshold of {name} is {value!r}; give a number >= 0")
        chosen[name] = number, "given by the caller"
    return chosen

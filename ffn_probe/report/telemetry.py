"""What a report of one run tells: its measures, and whether the recording can be trusted."""

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from ffn_probe.anatomy import Block
from ffn_probe.errors import FfnProbeError
from ffn_probe.report.paper import Banner
from ffn_probe.report.words import number
from ffn_probe.runs import Run

_KINDS = 4  # kinds of blocks named in a sentence


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """A run of one model with all of its measures, one row a site and measure."""

    run: Run
    measures: pd.DataFrame

    @classmethod
    def of(cls, run: Run) -> "Telemetry":
        """Return the measures of a run.

        Raises:
            FfnProbeError: the run holds no telemetry.
            RunError: a part of it cannot be read.
        """
        if run.manifest.kind != "telemetry":
            raise FfnProbeError(
                f"{run.path} is a {run.manifest.kind} run; a report is of telemetry runs (as "
                "record and attach write them) and of paired ones (as replay does)"
            )
        return cls(run, run.measures())

    def values(self, name: str) -> pd.DataFrame:
        """Return the rows of one measure."""
        return self.measures[self.measures["measure"] == name]

    @property
    def banner(self) -> Banner:
        """Whether the recording is whole and its values finite; not whether they are good."""
        what = f"{kinds(self.run.blocks)}; {self._size}."
        bad = self.values("nonfinite")
        bad = bad[bad["value"] > 0]
        if len(bad):
            first = bad.iloc[0]
            said = (
                f"{int(bad['value'].sum()):,} values at {len(bad)} of {len(self.run.sites)} "
                f"sites are not finite; the first in depth is layer {first['layer']} "
                f"{first['role']}."
            )
            return Banner.of("FAIL", said, what)
        if self.run.problems:
            said = "Every value is finite, but the recording has to be read with care."
            return Banner.of("WARN", said, what)
        error = max((block.recompute_error for block in self.run.blocks), default=0.0)
        how = f"to a relative error of {number(error)}" if error else "exactly"
        said = (
            "Every value is finite, the run is closed, and every block is computed again from "
            f"what was tapped, {how}."
        )
        return Banner.of("PASS", said, what)

    @property
    def _size(self) -> str:
        made = self.run.manifest
        return f"{len(self.run.sites)} sites, {made.steps:,} steps, {made.tokens:,} tokens"


def kinds(blocks: tuple[Block, ...]) -> str:
    """Return "4 blocks: glu silu after rmsnorm", the kinds counted where they differ."""
    counted = Counter(f"{b.kind} {b.activation} after {b.norm.kind}" for b in blocks)
    if not blocks:
        return "No blocks"
    start = f"{len(blocks)} block" + "s" * (len(blocks) > 1)
    if len(counted) == 1:
        return f"{start}: {next(iter(counted))}"
    listed = [f"{n} {kind}" for kind, n in counted.most_common(_KINDS)]
    more = f" and {len(counted) - _KINDS} more kinds" if len(counted) > _KINDS else ""
    return f"{start}: {', '.join(listed)}{more}"

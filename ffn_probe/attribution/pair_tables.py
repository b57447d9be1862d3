"""PairTables: the tables of a paired run, by block, as what is explained and measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float64

from ffn_probe.anatomy import ROLES, Block
from ffn_probe.attribution.channel_pair import CHANNEL_SUMS, ChannelPair
from ffn_probe.attribution.floors import rounding_floor, sqnr_db
from ffn_probe.attribution.site_pair import SitePair, positions, summed_by_fold

NAMES: tuple[str, ...] = (
    "paired",
    "paired_channels",
    "activation_error",
    "effects",
    "hypotheses",
)


BY_ROLE = "distribution"
"""The analysis whose numbers differ by role, not by part."""


@runtime_checkable
class PairedManifest(Protocol):
    """What is read of the manifest of a paired run."""

    @property
    def model(self) -> Mapping[str, Any]:
        """The reference: class, dtype, ..."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The reference's blocks."""

    @property
    def paired(self) -> Mapping[str, Any]:
        """The candidate, the pairs of blocks, the names, ..."""


@runtime_checkable
class PairedRun(Protocol):
    """A run of two models: what is read of it."""

    @property
    def manifest(self) -> PairedManifest:
        """Everything that is no number."""

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the tables."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One additive number of the table `effects`, one a fold, with the terms of each sum."""

    folds: tuple[int, ...]
    values: Float64[np.ndarray, " folds"]
    counts: Float64[np.ndarray, " folds"]

    @property
    def total(self) -> float:
        """The sum over all folds."""
        return float(self.values.sum())

    @property
    def mean(self) -> float:
        """The sum over its terms."""
        terms = float(self.counts.sum())
        return self.total / terms if terms else float("nan")

    def on(self, folds: Sequence[int]) -> "Effect":
        """Return the folds that are asked for; those that are missing count as zero."""
        at = {fold: i for i, fold in enumerate(self.folds)}
        rows = [(self.values[at[f]], self.counts[at[f]]) if f in at else (0.0, 0.0)
                for f in folds]  # fmt: skip
        columns = np.array(rows, np.float64).reshape(-1, 2)
        return Effect(tuple(folds), columns[:, 0], columns[:, 1])


Effects = Mapping[str, Mapping[str, Effect]]
"""Part -> metric -> effect."""


@dataclass(frozen=True)
class PairTables:
    """The five tables of a paired run, and what its manifest says."""

    frames: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)

    @classmethod
    def of(cls, run: PairedRun) -> "PairTables":
        """Return the tables of a run."""
        manifest = run.manifest
        models = (manifest.model, manifest.paired.get("candidate", {}))
        told = (model for model in models if isinstance(model, Mapping))
        named = tuple(str(model["dtype"]) for model in told if model.get("dtype"))
        frames = {name: run.table(name) for name in NAMES}
        return cls(frames, manifest.paired, manifest.blocks, named or ("float32",))

    # Sites

    @cached_property
    def places(self) -> tuple[tuple[int, str], ...]:
        """Layer and name of every block of the reference with paired rows, in depth."""
        unique = self.frames["paired"][["layer", "block"]].drop_duplicates()
        layers, blocks = unique["layer"].tolist(), unique["block"].tolist()
        return tuple(sorted(zip(layers, blocks, strict=True)))

    @cached_property
    def _sites(self) -> Mapping[tuple[str, str, str], SitePair]:
        return SitePair.every(self.frames["paired"])

    @cached_property
    def _roles(self) -> Mapping[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for block, role, view in self._sites:
            found.setdefault((block, view), set()).add(role)
        return found

    @cached_property
    def _channel_rows(self) -> Mapping[tuple[str, ...], np.ndarray]:
        return positions(self.frames["paired_channels"], ("block", "role", "view"))

    @cached_property
    def _channel_columns(self) -> Mapping[str, np.ndarray]:
        frame = self.frames["paired_channels"]
        return {name: frame[name].to_numpy(object) for name in CHANNEL_SUMS}

    def site(self, block: str, role: str, view: str) -> SitePair | None:
        """Return the sums of a site in a view, None where there are none."""
        return self._sites.get((block, role, view))

    def roles(self, block: str, view: str) -> tuple[str, ...]:
        """Return the roles of a block with rows in a view, in the order of the data flow."""
        known = self._roles.get((block, view), set())
        return tuple(role for role in ROLES if role in known)

    def channels(self, block: str, role: str, view: str) -> ChannelPair | None:
        """Return the sums by channel, None where there are none."""
        rows = self._channel_rows.get((block, role, view))
        return None if rows is None else ChannelPair.of(self._channel_columns, rows)

    def floor_db(self, block: str, role: str) -> float:
        """Return the noise floor of a site in dB of SQNR."""
        noise = self.site(block, role, "noise")
        rounding = rounding_floor(self.dtypes, role)
        if noise is None or not noise.paired:
            return rounding
        measured = sqnr_db(noise.total("energy_a"), noise.total("error"))
        return rounding if math.isnan(measured) else min(rounding, measured)

    @property
    def output_floor_db(self) -> float:
        """The noise floor of the model's output in dB of SQNR."""
        rounding = rounding_floor(self.dtypes, "logits", blocks=len(self.places))
        noise = self.effects("output").get("noise", {})
        if not {"error", "energy"} <= noise.keys():
            return rounding
        measured = sqnr_db(noise["energy"].total, noise["error"].total)
        return rounding if math.isnan(measured) else min(rounding, measured)

    @property
    def floor_measured(self) -> bool:
        """Whether the reference was compared with itself."""
        return bool((self.frames["paired"]["view"] == "noise").any())

    # Effects

    def effects(self, analysis: str, block: str | None = None) -> Effects:
        """Return part -> metric -> effect of one analysis, of one block or (None) of the model.

        Of the analysis "distribution" the role stands for the part.
        """
        return self._effects.get((analysis, block or ""), {})

    @cached_property
    def _effects(self) -> Mapping[tuple[str, str], dict[str, dict[str, Effect]]]:
        frame = self.frames["effects"]
        every = frame["fold"].to_numpy(np.int64)
        values = frame[["value", "count"]].to_numpy(np.float64)
        found: dict[tuple[str, str], dict[str, dict[str, Effect]]] = {}
        keys = ("analysis", "block", "part", "metric", "role")
        for (analysis, block, part, metric, role), rows in positions(frame, keys).items():
            folds, sums = summed_by_fold(every[rows], values[rows])
            effect = Effect(folds, sums[:, 0], sums[:, 1])
            name = role if analysis == BY_ROLE else part
            found.setdefault((analysis, block), {}).setdefault(name, {})[metric] = effect
        return found

    # Names

    @property
    def names(self) -> tuple[str, str]:
        """The names of reference and candidate."""
        given = [str(name) for name in self.about.get("names", ())][:2]
        return (given[0], given[1]) if len(given) == 2 else ("reference", "candidate")

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Block of the reference -> "glu" or "mlp"."""
        return {block.name: block.kind for block in self.blocks}

    @cached_property
    def candidates(self) -> Mapping[str, tuple[str, str]]:
        """Block of the reference -> block of the candidate, and why they are not paired."""
        return {
            str(pair["a"]): (str(pair["b"]), str(pair.get("reason") or ""))
            for pair in self.about.get("pairs", ())
        }

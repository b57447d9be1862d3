"""A toy model of numbers, run and replayed in float64, and the tables of a paired run of two.

Three residual blocks `x + down(act(up(norm(x))))` and a head. Every energy is taken of the
arrays themselves, so that tests compare with what really happened.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr

from ffn_probe.anatomy import Block, Norm
from ffn_probe.attribution.pair_tables import PairTables
from ffn_probe.runs.schema import TABLES

LAYERS, SEQUENCES, TOKENS, CHANNELS, WIDE, WORDS = 3, 8, 12, 24, 64, 40
ROLES = ("normed", "gate", "hidden", "out")
RNG = np.random.default_rng(4)
INPUT = RNG.standard_normal((SEQUENCES, TOKENS, CHANNELS)) + 0.05
HEAD = RNG.standard_normal((CHANNELS, WORDS)) / np.sqrt(CHANNELS)

Arrays = dict[str, np.ndarray]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * ndtr(x)


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return x * expit(1.702 * x)


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def rms_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True))


@dataclass(frozen=True)
class Toy:
    """One block as numbers; a stage is a function of the role before it."""

    up: np.ndarray
    down: np.ndarray
    norm: Callable[[np.ndarray], np.ndarray] = layer_norm
    act: Callable[[np.ndarray], np.ndarray] = gelu

    def stage(self, role: str, before: np.ndarray) -> np.ndarray:
        """Return the role made of the role before it."""
        stages = {
            "normed": self.norm, "gate": lambda x: x @ self.up, "hidden": self.act,
            "out": lambda x: x @ self.down,
        }  # fmt: skip
        return stages[role](before)

    def run(self, resid: np.ndarray) -> Arrays:
        """Return every role."""
        found = {"resid": resid}
        for before, role in zip(("resid", *ROLES), ROLES, strict=False):
            found[role] = self.stage(role, found[before])
        return found


def model() -> tuple[Toy, ...]:
    rng = np.random.default_rng(9)
    return tuple(
        Toy(
            rng.standard_normal((CHANNELS, WIDE)) / np.sqrt(CHANNELS),
            rng.standard_normal((WIDE, CHANNELS)) / np.sqrt(WIDE),
        )
        for _ in range(LAYERS)
    )


def changed(layer: int, **changes: Any) -> tuple[Toy, ...]:
    """Return the model with something else in one layer."""
    return tuple(replace(b, **changes) if i == layer else b for i, b in enumerate(model()))


def run(blocks: Sequence[Toy]) -> tuple[list[Arrays], np.ndarray]:
    x, seen = INPUT, []
    with np.errstate(invalid="ignore"):
        for block in blocks:
            seen.append(block.run(x))
            x = x + seen[-1]["out"]
        return seen, x @ HEAD


# Tables


def tables(
    candidate: Sequence[Toy],
    reference: Sequence[Toy] | None = None,
    *,
    noise: float = 1e-7,
    about: Mapping[str, Any] | None = None,
    **frames: pd.DataFrame,
) -> PairTables:
    """Return the tables of a paired run of two toys; `frames` over what was measured."""
    own = reference or model()
    rows = list(_paired(own, candidate, noise))
    made = {
        "paired": frame("paired", rows),
        "paired_channels": frame("paired_channels", list(_channels(own, candidate))),
        "effects": frame("effects", list(_output(own, candidate, noise))),
        "activation_error": frame("activation_error", []),
        "hypotheses": frame("hypotheses", []),
    }
    told = {"names": ["ref", "cand"], "floors": {"how": "the same twice"}} | dict(about or {})
    blocks = tuple(
        Block(name(i), i, "mlp", "gelu", Norm("layernorm"), {}, CHANNELS, WIDE)
        for i in range(LAYERS)
    )
    return PairTables({**made, **frames}, told, blocks)


def name(layer: int) -> str:
    return f"layers.{layer}.ffn"


def frame(table: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a table; columns that are not given are empty, zero or false."""
    kinds = {"string": "", "bool": False}
    columns = {f.name: kinds.get(str(f.type), 0) for f in TABLES[table]}
    return pd.DataFrame([{**columns, "expert": -1, **row} for row in rows], columns=[*columns])


def joined(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def effect(
    analysis: str,
    part: str,
    values: Sequence[float] | np.ndarray,
    *,
    layer: int = -1,
    metric: str = "error",
    count: int = 1,
) -> list[dict[str, Any]]:
    """Return one additive number, a row a fold."""
    head = {"analysis": analysis, "part": part, "metric": metric, "layer": layer}
    head |= {"block": name(layer) if layer >= 0 else "", "count": count}
    return [head | {"fold": fold, "value": float(v)} for fold, v in enumerate(values)]


def pairs(
    own: Sequence[Toy], candidate: Sequence[Toy]
) -> Iterator[tuple[int, str, str, np.ndarray, np.ndarray]]:
    """Yield layer, role, view, reference and candidate of everything that is compared."""
    seen, _ = run(own)
    ends, _ = run(candidate)
    for layer, block in enumerate(candidate):
        a, b = seen[layer], ends[layer]
        local = block.run(a["resid"])
        yield layer, "resid", "end", a["resid"], b["resid"]
        for before, role in zip(("resid", *ROLES), ROLES, strict=False):
            yield layer, role, "end", a[role], b[role]
            yield layer, role, "local", a[role], local[role]
            yield layer, role, "stage", a[role], block.stage(role, a[before])
        yield layer, "out", "inherited", local["out"], b["out"]


def _paired(
    own: Sequence[Toy], candidate: Sequence[Toy], noise: float
) -> Iterator[dict[str, Any]]:
    seen, _ = run(own)
    rng = np.random.default_rng(0)
    for layer, role, view, a, b in pairs(own, candidate):
        mine = a - seen[layer][role] if view == "inherited" else np.zeros_like(a)
        yield from _rows(layer, role, view, a, b, mine)
        if view == "end":
            again = a * (1 + noise * rng.standard_normal(a.shape))
            yield from _rows(layer, role, "noise", a, again, np.zeros_like(a))


def _rows(
    layer: int, role: str, view: str, a: np.ndarray, b: np.ndarray, mine: np.ndarray
) -> Iterator[dict[str, Any]]:
    for fold in range(SEQUENCES):
        x, y = a[fold], b[fold]
        fine = np.isfinite(x) & np.isfinite(y)
        p, q = np.where(fine, x, 0), np.where(fine, y, 0)
        sizes = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
        u, v = (m - m.mean(0) for m in (p, q))
        yield {
            "fold": fold, "layer": layer, "block": name(layer), "role": role, "view": view,
            "rows": TOKENS, "count": int(fine.sum()),
            "nonfinite_a": int((~np.isfinite(x)).sum()),
            "nonfinite_b": int((~np.isfinite(y)).sum()),
            "energy_a": (p**2).sum(), "energy_b": (q**2).sum(), "error": ((q - p) ** 2).sum(),
            "dot": (p * q).sum(), "cross": np.nan_to_num(mine[fold] * (y - x)).sum(),
            "max_abs": np.abs(q - p).max(), "ulps": int((p != q).sum()),
            "cosines": np.divide((p * q).sum(1), sizes, where=sizes > 0,
                                 out=np.zeros(TOKENS)).sum(),
            "cosine_rows": int((sizes > 0).sum()), "hsic_ab": ((u.T @ v) ** 2).sum(),
            "hsic_aa": ((u.T @ u) ** 2).sum(), "hsic_bb": ((v.T @ v) ** 2).sum(),
        }  # fmt: skip


def _channels(own: Sequence[Toy], candidate: Sequence[Toy]) -> Iterator[dict[str, Any]]:
    for layer, role, view, a, b in pairs(own, candidate):
        x, y = (np.nan_to_num(m.reshape(-1, m.shape[-1]), posinf=0, neginf=0) for m in (a, b))
        yield {
            "fold": -1, "layer": layer, "block": name(layer), "role": role, "view": view,
            "count": np.full(x.shape[1], len(x)), "sum_a": x.sum(0), "sum_b": y.sum(0),
            "sum_aa": (x * x).sum(0), "sum_bb": (y * y).sum(0), "sum_ab": (x * y).sum(0),
        }  # fmt: skip


def _output(
    own: Sequence[Toy], candidate: Sequence[Toy], noise: float
) -> Iterator[dict[str, Any]]:
    (_, a), (_, b) = run(own), run(candidate)
    again = a * (1 + noise * np.random.default_rng(1).standard_normal(a.shape))
    for part, other in (("candidate", b), ("noise", again)):
        p, q = (_log_softmax(m) for m in (a, other))
        kl = (np.exp(p) * (p - q)).sum((1, 2))
        same = (a.argmax(-1) == other.argmax(-1)).sum(1)
        energies = {"error": ((other - a) ** 2).sum((1, 2)), "energy": (a**2).sum((1, 2))}
        for metric, values in energies.items():
            yield from effect("output", part, values, metric=metric, count=TOKENS * WORDS)
        for metric, values in (("kl", kl), ("top1", same)):
            yield from effect("output", part, values, metric=metric, count=TOKENS)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    top = x - x.max(-1, keepdims=True)
    return top - np.log(np.exp(top).sum(-1, keepdims=True))

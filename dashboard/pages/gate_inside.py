"""What a run holds of one gated block, for the page Gate x value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dashboard.components.control import Option
from dashboard.components.page import Numbers
from dashboard.data import Library
from dashboard.pages.sides import Side, partner
from ffn_probe.anatomy import Block, Site
from ffn_probe.figures.gate_facts import FACTS, gate_facts
from ffn_probe.figures.joint_view import joint_view
from ffn_probe.figures.neurons import Neurons, neurons_of
from ffn_probe.runs import Run
from ffn_probe.sketches import BitHistogram, Joint

Held = tuple[BitHistogram, Joint | None, dict[str, float], Neurons | None]


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """What a run holds of one block or expert; `neurons` is None without gate and value."""

    side: Side
    block: Block
    expert: int
    gate: BitHistogram
    joint: Joint | None
    facts: dict[str, float]
    neurons: Neurons | None

    @property
    def title(self) -> str:
        """The run and, of a mixture, which expert is shown."""
        return self.side.title + (f", expert {self.expert}" if self.expert >= 0 else "")


def experts_of(side: Side, block: Block) -> list[int]:
    """Return the experts of a block whose gate was recorded; -1 for a dense block."""
    return [s.expert for s in side.run.sites if s.block == block.name and s.role == "gate"]


def expert_options(side: Side, block: Block) -> list[Option]:
    """Return the experts, the one with the most tokens first."""
    found = experts_of(side, block)
    if found == [-1]:
        return [("-1", "dense")]
    rows = {e: side.run.rows(Site(block.layer, block.name, "gate", e))[0] for e in found}
    return [(str(e), f"expert {e} ({rows[e]:,} tokens)")
            for e in sorted(found, key=lambda e: (-rows[e], e))]  # fmt: skip


def insides_of(
    library: Library, sides: Sequence[Side], block: Block, expert: int
) -> list[Inside]:
    """Return what the sides hold of the block and of its partner, the first one always."""
    found = [_inside(library, sides[0], block, expert)]
    other = partner(library, sides, block)
    if other is not None:
        experts = experts_of(sides[1], other)
        own = expert if expert in experts else next(iter(experts), None)
        if own is not None:
            found.append(_inside(library, sides[1], other, own))
    return found


def _inside(library: Library, side: Side, block: Block, expert: int) -> Inside:
    name = f"inside {block.name}#{expert}"
    held = library.once(name, [side.id], lambda: _held(side.run, block, expert))
    return Inside(side, block, expert, *held)


def _held(run: Run, block: Block, expert: int) -> Held:
    """Return the gate's values, the pairs, the numbers and the neurons of a block."""
    known = set(run.sites)
    gate, hidden = (Site(block.layer, block.name, r, expert) for r in ("gate", "hidden"))
    summary = run.summary(hidden) if hidden in known else None
    joint = summary.joint if summary is not None else None
    weights = run.weights(block.name, expert)
    values = run.histogram(gate)
    facts = gate_facts(
        values, joint=joint, weights=weights, activation=block.activation,
        hidden=run.histogram(hidden) if hidden in known else None,
    )  # fmt: skip
    channels = summary.channels if summary is not None else None
    neurons = None if joint is None else neurons_of(joint, channels, weights)
    return values, joint, facts, neurons


def frames_of(found: Sequence[Inside]) -> dict[str, Numbers]:
    """Return the tables, which are made when they are asked for."""
    frames: dict[str, Numbers] = {"numbers": lambda: _fact_frame(found)}
    paired = [x for x in found if x.joint is not None]
    if paired:
        frames["neurons"] = lambda: pd.concat([_neuron_frame(x) for x in paired])
        frames["cells"] = lambda: pd.concat(
            [_cells(x.side, x.joint) for x in paired if x.joint is not None]
        )
    return frames


def _fact_frame(found: Sequence[Inside]) -> pd.DataFrame:
    return pd.DataFrame([
        {"side": x.side.letter, "run": x.side.id, "block": x.block.name, "layer": x.block.layer,
         "expert": x.expert, "number": f.name, "value": x.facts[f.name], "unit": f.unit,
         "formula": f.formula}
        for x in found for f in FACTS if f.name in x.facts
    ])  # fmt: skip


def _neuron_frame(x: Inside) -> pd.DataFrame:
    n = x.neurons
    if n is None:
        return pd.DataFrame()
    return pd.DataFrame({
        "side": x.side.letter, "run": x.side.id, "neuron": np.arange(n.correlation.size),
        "cosine": n.cosine if n.cosine.size else np.nan, "correlation": n.correlation,
        "hidden_rms": n.hidden_rms, "hidden_mean": n.hidden_mean, "gate_std": n.gate_std,
    })  # fmt: skip


def _cells(side: Side, joint: Joint) -> pd.DataFrame:
    """Return the cells that hold pairs: their edges and counts."""
    view = joint_view(joint)
    rows, columns = np.nonzero(view.a)
    g, u = view.gate.edges, view.value.edges
    return pd.DataFrame({
        "side": side.letter, "run": side.id, "gate_from": g[rows], "gate_to": g[rows + 1],
        "value_from": u[columns], "value_to": u[columns + 1], "pairs": view.a[rows, columns],
    })  # fmt: skip

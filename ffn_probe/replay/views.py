"""The views of a batch: how the candidate is fed, and what is compared with the reference.

end: both models run by themselves. local: every block of the candidate gets the reference's
residual stream. stage: every stage gets the reference's tensors of the stage before. inherited:
the candidate's block on its own residual stream against the same block on the reference's.
noise: the reference once more, its batch split in two.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ffn_probe.anatomy import ROLES, Block
from ffn_probe.replay.halves import in_halves
from ffn_probe.replay.pairing import BlockPair
from ffn_probe.replay.passes import Captured, Key, capture, look
from ffn_probe.replay.sums import PairSums
from ffn_probe.replay.tokens import Tokens
from ffn_probe.swaps.interpose import inputs, readers, writers

SiteView = tuple[str, str, int, str]  # block of the reference, role, expert, view

Listen = Callable[[BlockPair, str, str, Tensor, Tensor | None], None]
"""Is told of a pair, a view, a role, the candidate's tensor and the reference's."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one batch showed.

    The outputs (`again`: of the reference once more, None without noise), the reference's
    roles, and of the candidate end to end its `resid` and `out`.
    """

    reference: Tensor
    candidate: Tensor
    again: Tensor | None
    roles: Captured
    ends: Captured


_OUT = "out"
_ROUTED = (
    "rows of experts go by each model's own router; end to end they are compared at the norm's "
    "output and at the mixture's"
)


class Views:
    """The paired sums of all sites and views, and the passes that fill them."""

    def __init__(
        self,
        reference: nn.Module,
        candidate: nn.Module,
        listen: Listen | None = None,
        noise_model: nn.Module | None = None,
    ) -> None:
        self.reference = reference
        self.candidate = candidate
        self.listen = listen
        self.noise_model = noise_model
        self.sums: dict[SiteView, PairSums] = {}
        self.locals: dict[str, tuple[float, float]] = {}

    def local_error(self, block: str) -> float:
        """Return the error energy of a block's own at `out`, over the reference's energy."""
        error, energy = self._local_energies(block)
        return error / energy if energy > 0 else 0.0

    def _local_energies(self, block: str) -> tuple[float, float]:
        before = self.locals.get(block, (0.0, 0.0))
        found = self.sums.get((block, _OUT, -1, "local"))
        if found is None or "error" not in found.sums:
            return before
        new = (float(found.sums[name].sum()) for name in ("error", "energy_a"))
        error, energy = (a + b for a, b in zip(before, new, strict=True))
        return error, energy

    def clear(self) -> None:
        """Begin new sums; what `local_error` needs is kept."""
        names = {key[0] for key in self.sums}
        self.locals |= {name: self._local_energies(name) for name in names}
        self.sums.clear()

    def sums_at(self, block: str, role: str, expert: int, view: str) -> PairSums:
        """Return the sums of one site and view."""
        return self.sums.setdefault((block, role, expert, view), PairSums())

    # One batch

    def add(
        self, batch: Any, tokens: Tokens, pairs: Sequence[BlockPair], *, noise: bool
    ) -> Shown:
        """Run every view of some pairs on a batch, and return what it showed."""
        entries = [e for pair in pairs for e in readers(pair.a)]
        shown, output = capture(self.reference, batch, entries)
        again = self._noise(batch, tokens, pairs, shown) if noise else None
        ends, output_b = self._end(batch, tokens, pairs, shown)
        fit = [p for p in pairs if not p.reason and _fits(p, shown, ends)]
        if fit:
            self._local(batch, tokens, fit, shown, ends)
            self._stages(batch, tokens, fit, shown)
        return Shown(output, output_b, again, shown, ends)

    def _end(
        self, batch: Any, tokens: Tokens, pairs: Sequence[BlockPair], shown: Captured
    ) -> tuple[Captured, Tensor]:
        by_b = {pair.b.name: pair for pair in pairs}
        kept: Captured = {}

        def touch(key: Key, value: Tensor) -> None:
            pair = by_b[key[0]]
            if key[1] in {entering(pair), _OUT}:
                kept[key] = value.clone()
            self.compare(pair, key, value, tokens, shown, "end")

        entries = [e for pair in pairs for e in readers(pair.b)]
        output = look(self.candidate, batch, entries, touch, name="the candidate")
        return kept, output

    def _local(
        self,
        batch: Any,
        tokens: Tokens,
        pairs: Sequence[BlockPair],
        shown: Captured,
        ends: Captured,
    ) -> None:
        by_b = {pair.b.name: pair for pair in pairs}

        def touch(key: Key, value: Tensor) -> Tensor | None:
            pair = by_b[key[0]]
            if key[1] == entering(pair):
                own = shown.get((pair.a.name, *key[1:]))
                return None if own is None else own.clone()  # a model may write into it
            self.compare(pair, key, value, tokens, shown, "local")
            if key[1] == _OUT:
                self._inherit(pair, key, value, tokens, shown, ends)
            return None

        entries = [e for p in pairs for e in (*writers(p.b, entering(p)), *_after(p))]
        look(self.candidate, batch, entries, touch, name="the candidate")

    def _inherit(
        self,
        pair: BlockPair,
        key: Key,
        local: Tensor,
        tokens: Tokens,
        shown: Captured,
        ends: Captured,
    ) -> None:
        whole, own = ends.get(key), shown.get((pair.a.name, *key[1:]))
        if whole is None or own is None or whole.shape != local.shape != own.shape:
            return
        a, folds = tokens.rows(local)
        b, _ = tokens.rows(whole)
        sums = self.sums_at(pair.a.name, key[1], key[2], "inherited")
        sums.add(a, b, folds, full=False)
        mine = a.double() - tokens.rows(own)[0].to(a.device).double()
        given = b.double() - a.double()
        product = (mine * given).nan_to_num(0.0, 0.0, 0.0).sum(1)
        sums.add_cross(product, folds)

    def _stages(
        self, batch: Any, tokens: Tokens, pairs: Sequence[BlockPair], shown: Captured
    ) -> None:
        by_b = {pair.b.name: pair for pair in pairs}
        times = {(p.b.name, role): _places(p.b, role) for p in pairs for role in _forced(p)}

        def touch(key: Key, value: Tensor) -> Tensor | None:
            pair, (block, role, expert, ordinal) = by_b[key[0]], key
            places = times[block, role]
            own = shown.get((pair.a.name, role, expert, ordinal // places))
            if own is None or own.shape != value.shape:
                return None
            if role != entering(pair) and ordinal % places == 0:
                here = (block, role, expert, ordinal // places)
                self.compare(pair, here, value, tokens, shown, "stage")
            return own.clone()

        entries = [e for p in pairs for role in _forced(p) for e in _written(p.b, role)]
        look(self.candidate, batch, entries, touch, name="the candidate")

    def _noise(
        self, batch: Any, tokens: Tokens, pairs: Sequence[BlockPair], shown: Captured
    ) -> Tensor:
        """Compare the reference with itself: in another dtype, or its batch split in two."""
        entries = [e for pair in pairs for e in readers(pair.a) if not e[1].labels]
        count = tokens.sequences * tokens.length
        mixed = {  # rows that an expert was given are in another order when a batch is split
            pair.a.name
            for pair in pairs
            if pair.a.experts
            and any(
                key[0] == pair.a.name and value.shape[:-1].numel() != count
                for key, value in shown.items()
                if key[1] in {"resid", "normed", _OUT}
            )
        }
        if self.noise_model is not None:
            again, output = capture(self.noise_model, batch, entries)
        else:
            again, output = in_halves(self.reference, batch, tokens, entries)
        for key, value in again.items():
            own = shown.get(key)
            if own is not None and own.shape == value.shape and key[0] not in mixed:
                a, folds = tokens.rows(own)
                sums = self.sums_at(key[0], key[1], key[2], "noise")
                sums.add(a, tokens.rows(value)[0], folds, full=False)
        return output

    # One tensor

    def compare(
        self,
        pair: BlockPair,
        key: Key,
        value: Tensor,
        tokens: Tokens,
        shown: Captured,
        view: str,
    ) -> None:
        """Add a tensor of the candidate to the sums of its site, against the reference's."""
        own = shown.get((pair.a.name, *key[1:]))
        if self.listen is not None and key[2] < 0:
            self.listen(pair, view, key[1], value, own)
        if own is None:
            return
        sums = self.sums_at(pair.a.name, key[1], key[2], view)
        routed = pair.a.experts and key[1] not in {"resid", "normed", _OUT}
        reason = pair.reason or (_ROUTED if routed and view == "end" else "")
        if not reason and own.shape != value.shape:
            reason = f"the shapes differ: {tuple(own.shape)} and {tuple(value.shape)}"
        a, folds = tokens.rows(own)
        b, _ = tokens.rows(value)
        if reason:
            sums.add_unpaired(a, b, folds, reason)
        else:
            sums.add(a, b, folds, full=view == "end")

    # Reading

    def rows(self, blocks: Mapping[str, Block], window: int) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of the tables `paired` and `paired_channels`, in a fixed order."""
        order = {role: i for i, role in enumerate(ROLES)}
        found: dict[str, list[dict[str, Any]]] = {"paired": [], "paired_channels": []}
        for (name, role, expert, view), sums in sorted(
            self.sums.items(), key=lambda x: (blocks[x[0][0]].layer, order[x[0][1]], x[0])
        ):
            head = {
                "window": window, "layer": blocks[name].layer, "block": name, "role": role,
                "expert": expert, "dp": 0, "tp": 0, "pp": 0, "ep": 0, "view": view,
            }  # fmt: skip
            found["paired"] += [{**head, **row} for row in sums.fold_rows()]
            found["paired_channels"] += [{**head, **row} for row in sums.channel_rows()]
        return found


def entering(pair: BlockPair) -> str:
    """Return the role at which the reference's stream is put into the candidate's block.

    Where no norm stands before the FFN, its input is the stream.
    """
    both = {*pair.a.roles} & {*pair.b.roles}
    return "resid" if "resid" in both else "normed"


def _after(pair: BlockPair) -> Iterable[tuple[Block, Any]]:
    order = ROLES.index(entering(pair))
    return readers(pair.b, [role for role in pair.b.roles if ROLES.index(role) > order])


def _forced(pair: BlockPair) -> list[str]:
    """Return the roles that both blocks have, in the order of the data flow."""
    return [role for role in pair.b.roles if role in pair.a.roles]


def _written(block: Block, role: str) -> tuple[tuple[Block, Any], ...]:
    """Return where a stage's tensor is put in: `normed` where the projections read it."""
    return inputs(block) if role == "normed" else writers(block, role)


def _places(block: Block, role: str) -> int:
    """Return at how many places a role is written in one call of a block (or of an expert)."""
    found = _written(block, role)
    return max(1, len([tap for _, tap in found if tap.expert == found[0][1].expert]))


def _fits(pair: BlockPair, shown: Captured, ends: Captured) -> bool:
    a, b = shown.get((pair.a.name, _OUT, -1, 0)), ends.get((pair.b.name, _OUT, -1, 0))
    experts = bool(pair.a.experts)
    return (a is not None and b is not None and a.shape == b.shape) or experts

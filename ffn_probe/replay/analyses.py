"""What is learned of a pair of blocks while both models are replayed, kept as effects.

Shapley shares of the parts, the split of a norm's change, the activation's error by gate, and
the mean of the hidden tensor beside its theory. Each needs the parts of both blocks; where they
cannot be read, or do not reproduce the block, that is a note and the rest goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.blocks import TOLERANCES
from ffn_probe.errors import ModelError
from ffn_probe.replay.effects import EffectKey, Effects
from ffn_probe.replay.format_laws import law_of
from ffn_probe.replay.gating import scale_ratio
from ffn_probe.replay.norming import kind_of, norm_split
from ffn_probe.replay.pairing import BlockPair
from ffn_probe.replay.parts import Parts, parts_of
from ffn_probe.replay.playing import comparable, differing, same_part, shares
from ffn_probe.replay.regions import ActivationError
from ffn_probe.replay.tokens import Tokens
from ffn_probe.replay.views import Shown, entering
from ffn_probe.sketches import BitHistogram
from ffn_probe.sketches.distances import ks, psi, w1_asinh

_OFF_CENTRE = 0.1
_SIDES = ("reference", "candidate")
_DISTANCES = {"ks": ks, "w1_asinh": w1_asinh, "psi": psi}
_ACTED = {"glu": "gate_act", "mlp": "hidden"}


@dataclass(slots=True)
class _Alignment:
    """Per neuron sums of gate, value, their product and hidden."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    rows: int = 0
    held: dict[str, Tensor] = field(default_factory=dict)

    def see(self, role: str, value: Tensor, tokens: Tokens) -> None:
        self.held[role] = tokens.rows(value)[0].double().cpu()
        if len(self.held) < 3:
            return
        g, u, h = (self.held.pop(name) for name in ("gate", "value", "hidden"))
        if not g.shape == u.shape == h.shape:
            return
        new = {
            "g": g.sum(0), "u": u.sum(0), "gg": g.square().sum(0), "uu": u.square().sum(0),
            "gu": (g * u).sum(0), "h": h.sum(0),
        }  # fmt: skip
        for name, values in new.items():
            self.sums[name] = self.sums[name] + values if name in self.sums else values
        self.rows += g.shape[0]

    def means(self) -> tuple[float, float, int] | None:
        """Return (expected sum of hidden by rho s_g s_u / 2, observed sum, terms).

        The identity is for gates and values of mean zero; None where they are not (the root
        mean square of mean / std over the neurons is over 0.1).
        """
        n = self.rows
        means = {name: self.sums[name] / n for name in ("g", "u")}
        for name, mean in means.items():
            spread = (self.sums[name + name] / n - mean.square()).clamp(min=1e-300)
            if float((mean.square() / spread).mean()) > _OFF_CENTRE**2:
                return None
        covariance = self.sums["gu"] / n - means["g"] * means["u"]
        expected = float((n * covariance / 2).sum())
        return expected, float(self.sums["h"].sum()), n * int(covariance.numel())


class Analyses:
    """The effects of the pairs of two models."""

    def __init__(
        self,
        reference: nn.Module,
        candidate: nn.Module,
        *,
        rows: int,
        quantize: Mapping[str, str] | None = None,
    ) -> None:
        self.quantize = dict(quantize or {})
        self.models = (reference, candidate)
        self.rows = rows
        self.effects = Effects()
        self.notes: dict[str, None] = {}
        self.parts: dict[str, tuple[Parts | None, Parts | None]] = {}
        self.gates: dict[str, ActivationError] = {}
        self.held: dict[str, tuple[Tensor, Tensor]] = {}
        self.alignments: dict[tuple[str, str], _Alignment] = {}
        self.histograms: dict[tuple[str, str], tuple[BitHistogram, BitHistogram]] = {}
        self.tokens: Tokens | None = None

    # While the models run

    def listen(
        self, pair: BlockPair, view: str, role: str, value: Tensor, own: Tensor | None
    ) -> None:
        """Take a tensor of the candidate, and the reference's of the same site."""
        if view == "stage" and own is not None:
            self._activation(pair, role, value, own)
            if self.tokens is not None and role in self.quantize and own.shape == value.shape:
                self._format(pair, role, self.tokens.rows(own), self.tokens.rows(value)[0])
        unlike = pair.reason or pair.a.kind != pair.b.kind
        if view == "end" and unlike and own is not None:
            self._distribution(pair, role, own, value)
        if view == "end" and self.tokens is not None:
            self._align(pair.b, "candidate", pair.a.name, role, value)

    def _distribution(self, pair: BlockPair, role: str, own: Tensor, value: Tensor) -> None:
        new = [_histogram(tensor, self.tokens) for tensor in (own, value)]
        old = self.histograms.get((pair.a.name, role))
        if old is not None:
            new = [a.merge(b) for a, b in zip(old, new, strict=True)]
        self.histograms[pair.a.name, role] = (new[0], new[1])

    def _format(
        self, pair: BlockPair, role: str, own: tuple[Tensor, Tensor], value: Tensor
    ) -> None:
        """Add the error of a quantized site beside the law of its format."""
        rows, folds = own
        law = law_of(self.quantize[role])
        if law is None:
            return
        x = rows.double()
        found = {
            "expected_error": law(x),
            "error": (value.to(x.device).double() - x).square().sum(1),
            "energy": x.square().sum(1),
        }
        part = f"{self.quantize[role].partition(':')[0].replace('e4m3fn', 'e4m3')}:{role}"
        for metric, values in found.items():
            key = EffectKey(pair.a.layer, pair.a.name, role, "theory", part, metric)
            self.effects.add(key, values, folds, rows.shape[1])

    def _activation(self, pair: BlockPair, role: str, value: Tensor, own: Tensor) -> None:
        a, b = self.parts.get(pair.a.name, (None, None))
        if a is None or b is None or a.activation.joint or b.activation.joint:
            return
        if pair.a.kind != pair.b.kind or same_part(a.activation, b.activation):
            return
        if role == "gate":
            self.held[pair.a.name] = (own, own)
        elif role == _ACTED[pair.a.kind] and pair.a.name in self.held:
            gate = self.held.pop(pair.a.name)[0]
            if gate.shape == own.shape == value.shape:
                held = self.gates.setdefault(
                    pair.a.name, ActivationError(a.activation, b.activation)
                )
                held.add(gate, own, value)

    def _align(self, block: Block, side: str, name: str, role: str, value: Tensor) -> None:
        wanted = {"gate", "value", "hidden"}
        if self.tokens is None or role not in wanted or not wanted <= set(block.roles):
            return
        if not block.experts:
            self.alignments.setdefault((name, side), _Alignment()).see(role, value, self.tokens)

    # After a batch

    def read(self, pair: BlockPair, shown: Shown) -> None:
        """Read the parts of a pair, and check them on what the first batch showed."""
        if pair.a.name in self.parts:
            return
        found: list[Parts | None] = []
        for side, model, block in zip(_SIDES, self.models, (pair.a, pair.b), strict=True):
            roles = shown.roles if side == "reference" else shown.ends
            try:
                found.append(_checked(model, block, roles))
            except ModelError as error:
                found.append(None)
                self.notes.setdefault(f"parts of {block.name} ({side}): {error}")
        self.parts[pair.a.name] = (found[0], found[1])

    def add(self, pair: BlockPair, shown: Shown, tokens: Tokens) -> None:
        """Add what one batch says of a pair."""
        for (name, role, _, _), value in shown.roles.items():
            if name == pair.a.name:
                self._align(pair.a, "reference", name, role, value)
        a, b = self.parts.get(pair.a.name, (None, None))
        resid = shown.roles.get((pair.a.name, entering(pair), -1, 0))
        if a is None or b is None or resid is None or pair.reason:
            return
        rows, folds = tokens.rows(resid)
        self._norm(pair, a, b, rows, folds)
        step = max(1, rows.shape[0] // self.rows)
        self._shapley(pair, a, b, rows[::step], folds[::step])

    def _norm(self, pair: BlockPair, a: Parts, b: Parts, rows: Tensor, folds: Tensor) -> None:
        kinds = {kind_of(a.norm), kind_of(b.norm)}
        if kinds != {"layernorm", "rmsnorm"}:
            return
        for part, values in norm_split(a.norm, b.norm, rows).items():
            key = EffectKey(pair.a.layer, pair.a.name, "normed", "norm", part, "error")
            self.effects.add(key, values, folds, rows.shape[1])

    def _shapley(
        self, pair: BlockPair, a: Parts, b: Parts, rows: Tensor, folds: Tensor
    ) -> None:
        reason = comparable(a, b)
        if reason:
            self.notes.setdefault(f"no shares in {pair.a.name}: {reason}")
            return
        if not differing(a, b):
            return
        counts = torch.bincount(folds.cpu(), minlength=16) * pair.a.d_model
        for part, values in shares(a, b, rows, folds).items():
            key = EffectKey(pair.a.layer, pair.a.name, "out", "shapley", part, "error")
            for fold in torch.nonzero(counts).reshape(-1).tolist():
                self.effects.put(key, fold, float(values[fold]), int(counts[fold]))

    # At the end

    def finish(self, pairs: Mapping[str, BlockPair], window: int) -> list[dict[str, Any]]:
        """Add what is known at the end only; return the rows of `activation_error`."""
        for (name, side), held in self.alignments.items():
            found = held.means() if held.rows > 1 and "h" in held.sums else None
            if found is not None:
                expected, observed, count = found
                layer, part = pairs[name].a.layer, f"mean_hidden_{side}"
                for metric, value in (("expected", expected), ("observed", observed)):
                    key = EffectKey(layer, name, "hidden", "theory", part, metric)
                    self.effects.put(key, 0, value, count)
        self._scales(pairs)
        for (name, role), (a, b) in self.histograms.items():
            for metric, distance in _DISTANCES.items():
                key = EffectKey(
                    pairs[name].a.layer, name, role, "distribution", "apart", metric
                )
                self.effects.put(key, 0, float(distance(a, b)), 1)
        return [
            {
                "window": window, "layer": pairs[name].a.layer, "block": name, "role": "gate",
                "expert": -1, "dp": 0, "tp": 0, "pp": 0, "ep": 0, **held.row(),
            }
            for name, held in self.gates.items()
        ]  # fmt: skip

    def _scales(self, pairs: Mapping[str, BlockPair]) -> None:
        """Add how the norm of hidden changes where an MLP meets a GLU, beside theory."""
        for name, pair in pairs.items():
            gates, hidden = (self.histograms.get((name, role)) for role in ("gate", "hidden"))
            found = scale_ratio(pair.a, pair.b, gates, hidden) if gates and hidden else None
            for metric, value in zip(("expected", "observed"), found or (), strict=False):
                key = EffectKey(pair.a.layer, name, "hidden", "theory", "std_ratio", metric)
                self.effects.put(key, 0, value, 1)


def _histogram(value: Tensor, tokens: Tokens | None) -> BitHistogram:
    rows = value if tokens is None else tokens.rows(value)[0]
    return BitHistogram.of(rows.float().cpu().numpy())


def _checked(model: nn.Module, block: Block, roles: Mapping[Any, Tensor]) -> Parts:
    """Return the parts of a block that reproduce its output.

    Raises:
        ModelError: they do not, or cannot be read.
    """
    if block.experts:
        raise ModelError("a mixture of experts is not taken apart here; see the autopsy")
    parts = parts_of(model, block)
    resid = roles.get((block.name, "resid", -1, 0))
    if resid is None and block.norm.kind == "none":
        resid = roles.get((block.name, "normed", -1, 0))
    out = roles.get((block.name, "out", -1, 0))
    if resid is None or out is None:
        raise ModelError("its residual stream or its output is not seen")
    few = resid.reshape(-1, resid.shape[-1])[:256]
    wanted = out.reshape(-1, out.shape[-1])[:256]
    with torch.no_grad():
        got = parts.run({"resid": few})["out"]
    finite = wanted.isfinite() & got.isfinite()
    apart = torch.where(finite, got.double() - wanted.double(), 0).norm()
    scale = torch.where(finite, wanted.double(), 0).norm()
    tolerance = TOLERANCES.get(wanted.dtype, 3e-2)
    if not float(apart) <= tolerance * float(scale):
        raise ModelError(
            f"run from its parts its output is off by {float(apart / scale):.2g} (tolerance "
            f"{tolerance:g})"
        )
    return parts

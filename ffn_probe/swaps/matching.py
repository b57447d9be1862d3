"""Fit what a swap puts in to what was there: streamed moments of calibration batches."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.discover.calling import call_arguments, describe, undisturbed
from ffn_probe.errors import ExampleError, SwapError
from ffn_probe.probes.record import moved
from ffn_probe.swaps.activations import own_form
from ffn_probe.swaps.gating import Meeting
from ffn_probe.swaps.interpose import interpose, readers, writers
from ffn_probe.swaps.norms import Fit
from ffn_probe.swaps.places import Place
from ffn_probe.swaps.target import Target
from ffn_probe.zoo.fingerprint import apply_match


@dataclass(slots=True, eq=False)
class _Pairs:
    """Float64 sums over rows of two tensors, by channel, about the first batch's means."""

    rows: int = 0
    about: tuple[Tensor, Tensor] | None = None
    sums: list[Tensor] = field(default_factory=list)

    def add(self, new: Tensor, old: Tensor) -> None:
        a, b = (t.detach().reshape(-1, t.shape[-1]).double().cpu() for t in (new, old))
        if self.about is None:
            self.about = (a.mean(0), b.mean(0))
            self.sums = [torch.zeros(a.shape[-1], dtype=torch.float64) for _ in range(5)]
        a, b = a - self.about[0], b - self.about[1]
        self.rows += a.shape[0]
        parts = (a, b, a * a, b * b, a * b)
        self.sums = [s + part.sum(0) for s, part in zip(self.sums, parts, strict=True)]

    def fit(self, sign: Tensor) -> Fit:
        """Return gain and bias that give `new` the mean and the variance of `old`."""
        if self.about is None:
            raise SwapError("a norm that is to be matched never ran on the calibration batches")
        n = self.rows
        a, b, aa, bb, ab = (total / n for total in self.sums)
        var_a, var_b = (aa - a * a).clamp(min=0), (bb - b * b).clamp(min=0)
        ratio = torch.where(var_a > 0, var_b / var_a.clamp(min=1e-300), torch.ones_like(a))
        gain = ratio.sqrt() * torch.where(sign < 0, -1.0, 1.0)
        mean_a, mean_b = a + self.about[0], b + self.about[1]
        error = (gain**2 * var_a + var_b - 2 * gain * (ab - a * b)).clamp(min=0)
        energy = (var_b + mean_b**2).sum()
        return Fit(gain, mean_b - gain * mean_a, _db(energy, error.sum()))


def _db(energy: Tensor, error: Tensor) -> float:
    return float(10 * torch.log10(energy / error.clamp(min=1e-300))) if energy > 0 else 0.0


@dataclass(slots=True, eq=False)
class _Meetings:
    """Sums over what gate and value of a block meet as, now and by another form."""

    meeting: Meeting
    held: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    value_rows: int = 0
    value_sum: Tensor | None = None

    def __call__(self, block: Block, tap: Tap, tensor: Tensor) -> None:
        if tap.role == "value":
            flat = tensor.detach().reshape(-1, tensor.shape[-1]).double().cpu()
            self.value_rows += flat.shape[0]
            total = flat.sum(0)
            self.value_sum = total if self.value_sum is None else self.value_sum + total
        if tap.role != "product":
            self.held[tap.role, tap.expert] = tensor.clone()
            return
        gate = self.held.pop(("gate", tap.expert), None)
        if gate is None or self.meeting.value == "mean":
            return
        value = self.held.pop(("value", tap.expert), None)
        form = self.meeting.form or own_form(block)
        met = apply_match(form, gate, None if value is None else value.reshape(gate.shape))
        new, old = met.detach().double().flatten(), tensor.detach().double().flatten()
        for i, pair in enumerate(((new, new), (old, old), (new, old))):
            self.sums[i] += float(torch.dot(*pair))

    def scale(self) -> tuple[float, float]:
        """Return the factor that gives the new form the old one's RMS, and the SQNR in dB."""
        nn_, oo, no = self.sums
        if not oo or not nn_:
            raise SwapError(
                f"block {self.meeting.block.name!r} cannot be matched: its hidden tensor, "
                f"before or after, is zero on all calibration batches (energies {oo}, {nn_})"
            )
        factor = (oo / nn_) ** 0.5
        error = factor**2 * nn_ + oo - 2 * factor * no
        return factor, _db(torch.tensor(oo), torch.tensor(max(error, 0.0)))

    def mean_value(self) -> Tensor:
        """Return what the value path is on average, [d_ff]."""
        if self.value_sum is None:
            raise SwapError(f"block {self.meeting.block.name!r} never ran on the batches")
        return self.value_sum / self.value_rows


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the calibration batches say: a Fit a norm module, sums a block."""

    fits: dict[int, Fit]
    meetings: dict[str, _Meetings]


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    places: Sequence[Place],
    wanted: Target | None,
    meetings: Sequence[Meeting],
) -> Calibration:
    """Run the model as it is on every batch and fit what is to be put in.

    Raises:
        ExampleError: there are no batches, or the model rejected one.
        SwapError: a norm or block never ran, or is zero on all of them.
    """
    places = places if wanted is not None else ()
    pairs = {id(place.module): _Pairs() for place in places}
    sums = {m.block.name: _Meetings(m) for m in meetings}
    with ExitStack() as stack:
        for place in places:
            _watch_norm(place, wanted, pairs[id(place.module)], stack)
        for item in meetings:
            roles = ("gate", "value") if item.block.kind == "glu" else ("gate",)
            entries = [*readers(item.block, roles), *writers(item.block, "product")]
            interpose(model, entries, sums[item.block.name], stack)
        _run(model, batches)
    fits = {key: found.fit(_signs(places, key)) for key, found in pairs.items()}
    return Calibration(fits, sums)


def _signs(places: Sequence[Place], key: int) -> Tensor:
    place = next(p for p in places if id(p.module) == key)
    return place.gain()


def _watch_norm(place: Place, wanted: Target | None, pairs: _Pairs, stack: ExitStack) -> None:
    form = wanted.form if wanted is not None else None
    constant = place.constant(wanted) if wanted is not None else 0.0

    def watch(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        del module
        wide = next(iter((*args, *kwargs.values()))).detach().double()
        pairs.add(wide if form is None else form.function(wide, None, None, constant), output)

    stack.callback(place.module.register_forward_hook(watch, with_kwargs=True).remove)


def _run(model: nn.Module, batches: Iterable[Any]) -> None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    for count, batch in enumerate(batches, 1):
        args, kwargs = call_arguments(moved(batch, device))
        try:
            with undisturbed(model), torch.no_grad():
                model(*args, **kwargs)
        except Exception as error:
            raise ExampleError(
                f"the model rejected calibration batch {count - 1} ({describe(batch)}): "
                f"{type(error).__name__}: {error}"
            ) from error
    if not count:
        raise ExampleError("there are no calibration batches: the iterable is empty")

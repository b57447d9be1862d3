"""The running statistics of one site on the model's device.

An Accumulator is fed rows and never waits for the device: no value is read until `spill` or
`rows` copies the state to the host once. What it returns are the rows of a run's tables;
they equal the sketches of the same values (tests/probes/test_accumulate.py).

All rows feed the range, the per-token absmax, the per-channel absmax, the non-finite
counts and the top values; the sampled rows feed the rest.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffn_probe.probes import fused
from ffn_probe.probes.address import Address
from ffn_probe.probes.codes import coarsened, codes_of, count_codes, counted
from ffn_probe.probes.state_sketches import FOLD_BITS, TOP_K, State, fold_rows, whole_rows

FOLDS = 16
_BAD_ROWS = 64  # rows with NaN or Inf that are counted one by one in a call
_LARGEST = 3.4028234663852886e38
Rows = dict[str, list[dict[str, Any]]]


class Accumulator:
    """Statistics of one site.

    Args:
        channels: width of the rows.
        experts: the experts that share this state: (-1,) for a dense site. Rows come with
            labels, ordinals into `experts`; the label `len(experts)` drops a row.
        bits: mantissa bits of the window's histogram.
        device: where the state lives.
        lanes: folds kept at once, 16, or 1 where memory counts: `spill` must then be
            called before the fold changes.
    """

    def __init__(
        self,
        channels: int,
        experts: tuple[int, ...],
        bits: int,
        device: torch.device,
        *,
        lanes: int = FOLDS,
    ) -> None:
        self.channels = channels
        self.experts = experts
        self.groups = len(experts)
        self.bits = bits
        self.device = device
        self.lanes = lanes
        self.dtype = ""
        self.fused = experts == (-1,) and lanes == FOLDS and fused.usable(device)
        self._fresh_folds()
        self._fresh_window()

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    @torch.inference_mode(mode=False)
    def _fresh_folds(self) -> None:
        n, g, f8 = self.lanes, self.groups, torch.float64
        self.used: dict[int, int] = {}  # lane -> fold
        self.fold_state: dict[str, Tensor] = {
            "seen": self._zeros(n, g),
            "sampled": self._zeros(n, g),
            "powers": self._zeros(n, g, 5, dtype=f8),  # n, sums of (x - pivot)^1..4
            "histogram": self._zeros(n, g, 1 << (9 + FOLD_BITS)),
            "special": self._zeros(n, g, 3),  # nan, +inf, -inf over all rows
            "low": torch.full((n, g), torch.inf, dtype=f8, device=self.device),
            "high": torch.full((n, g), -torch.inf, dtype=f8, device=self.device),
            "tokens": self._zeros(n, g, 3, 1 << (9 + FOLD_BITS)),
            "top": self._zeros(n, g, TOP_K, dtype=f8),
            "top_where": torch.full((n, g, TOP_K, 5), -1, device=self.device),
        }
        self._fold_arrays = _arrays(self.fold_state) if self.fused else {}

    @torch.inference_mode(mode=False)
    def _fresh_window(self) -> None:
        g, c, f8 = self.groups, self.channels, torch.float64
        self.started = False
        self.spilled: Rows = {}
        self.state: dict[str, Tensor] = {
            "pivot": self._zeros(g, c, dtype=f8),
            "histogram": self._zeros(g, 1 << (9 + self.bits)),
            "channel_count": self._zeros(2, g, c),
            "channel_active": self._zeros(2, g, c),
            "channel_sums": self._zeros(2, g, 2, c, dtype=f8),
            "channel_absmax": self._zeros(2, g, c, dtype=torch.float32),
        }
        self._arrays = _arrays(self.state) if self.fused else {}

    @property
    def bytes(self) -> int:
        """Device memory of the state."""
        held = (*self.state.values(), *self.fold_state.values())
        return sum(v.numel() * v.element_size() for v in held)

    @property
    def absmax(self) -> Tensor:
        """The largest finite magnitude of each expert in this window: [experts]."""
        return self.state["channel_absmax"].amax(2).amax(0)

    # Feeding

    @torch.no_grad()
    def add(
        self,
        rows: Tensor,
        at: Address,
        *,
        sample: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Fold rows into the state.

        Args:
            rows: [rows, channels] values in any floating dtype.
            at: step, fold and address of the rows.
            sample: ordinals of the rows that feed the sampled part; None for all.
            labels: the expert's ordinal of each row; None when there is only one.
        """
        if rows.shape[0] == 0:
            return
        lane = at.fold if self.lanes == FOLDS else 0
        self.used[lane] = at.fold
        self.dtype = self.dtype or str(rows.dtype).removeprefix("torch.")
        if rows.dtype == torch.float64:
            finite = rows.clamp(-_LARGEST, _LARGEST)
            rows = torch.where(rows.isfinite(), finite, rows)
        if rows.dtype not in {torch.float32, torch.bfloat16, torch.float16}:
            rows = rows.float()
        if self.fused and labels is None:
            if not self.started:
                self.started = True
                self._arrays["pivot"][0] = fused.first_pivot(rows, sample)
            lines = {name: value[lane] for name, value in self._fold_arrays.items()}
            fused.fold_in(rows, at, sample, self.bits, self._arrays, lines)
            return
        fold = {name: value[lane] for name, value in self.fold_state.items()}
        self._all_rows(rows, at, fold, labels)
        chosen = rows if sample is None else rows[sample]
        groups = labels if sample is None or labels is None else labels[sample]
        self._sampled_rows(chosen, at.fold % 2, fold, groups)

    def _total(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Return the sum of a [rows, ...] tensor per expert: [experts, ...]."""
        if labels is None:
            return values.sum(0, keepdim=True)
        shape = (self.groups + 1, *values.shape[1:])
        out = torch.zeros(shape, dtype=values.dtype, device=self.device)
        return out.index_add_(0, labels, values)[: self.groups]

    def _all_rows(
        self, rows: Tensor, at: Address, fold: dict[str, Tensor], labels: Tensor | None
    ) -> None:
        high, low = rows.amax(-1).double(), rows.amin(-1).double()
        good = (high - low).isfinite()
        fold["seen"] += self._total(torch.ones_like(high, dtype=torch.int64), labels)
        bounds = torch.where(good, low, torch.inf), torch.where(good, high, -torch.inf)
        self._range(*bounds, fold, labels)
        self._channel_peaks(rows, good, at.fold % 2, labels)
        peak = torch.where(good, torch.maximum(high, -low).abs(), torch.nan)
        peak = self._bad_rows(rows, peak, at.fold % 2, fold, labels)
        self._largest(rows, peak.nan_to_num(0.0), at, fold, labels)
        self._count_tokens(0, peak, fold, labels)

    def _range(
        self, low: Tensor, high: Tensor, fold: dict[str, Tensor], labels: Tensor | None
    ) -> None:
        self._reduce(fold["low"], low, labels, "amin")
        self._reduce(fold["high"], high, labels, "amax")

    def _reduce(self, target: Tensor, values: Tensor, labels: Tensor | None, how: str) -> None:
        """Fold [rows, ...] into [experts, ...] by "amin" or "amax"."""
        if labels is None:
            best = values.amin(0) if how == "amin" else values.amax(0)
            pick = torch.minimum if how == "amin" else torch.maximum
            target[0] = pick(target[0], best)
            return
        neutral = torch.inf if how == "amin" else -torch.inf
        room = torch.full_like(target[:1], neutral)
        index = labels if values.dim() == 1 else labels[:, None].expand_as(values)
        wide = torch.cat([target, room]).scatter_reduce_(0, index, values, how)
        target.copy_(wide[: self.groups])

    def _channel_peaks(
        self, rows: Tensor, good: Tensor, half: int, labels: Tensor | None
    ) -> None:
        peaks = self.state["channel_absmax"][half]
        if labels is None:
            peak = torch.maximum(rows.amax(0), -rows.amin(0)).float()
            torch.maximum(peaks[0], torch.where(peak.isfinite(), peak, 0.0), out=peaks[0])
        else:
            size = torch.where(good[:, None], rows.abs().float(), 0.0)
            self._reduce(peaks, size, labels, "amax")

    def _bad_rows(
        self,
        rows: Tensor,
        peak: Tensor,
        half: int,
        fold: dict[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        """Count NaN and Inf in the rows that hold any; beyond 64 rows a call, in proportion.

        Returns `peak` with the largest finite magnitude of these rows put in.
        """
        good = peak.isfinite()
        flag, index = torch.topk((~good).float(), min(_BAD_ROWS, rows.shape[0]))
        chosen = rows[index]
        kinds = (chosen.isnan(), chosen == torch.inf, chosen == -torch.inf)
        counts = torch.stack([kind.sum(-1) for kind in kinds], -1) * flag.long()[:, None]
        factor = (~good).sum().double() / flag.sum().clamp(min=1).double()
        where = None if labels is None else labels[index]
        fold["special"] += self._total((counts.double() * factor).round().long(), where)
        # What is finite in these rows still counts for the range and the channels.
        finite = chosen.isfinite() & (flag > 0)[:, None]
        low = torch.where(finite, chosen.double(), torch.inf).amin(-1)
        high = torch.where(finite, chosen.double(), -torch.inf).amax(-1)
        self._range(low, high, fold, where)
        size = torch.where(finite, chosen.abs().float(), 0.0)
        self._reduce(self.state["channel_absmax"][half], size, where, "amax")
        if labels is None:
            self._spoilt_peaks(rows, good, half)
        largest = torch.where(finite.any(-1), torch.maximum(high, -low).abs(), torch.nan)
        return peak.index_copy(0, index, torch.where(flag > 0, largest, peak[index]))

    def _spoilt_peaks(self, rows: Tensor, good: Tensor, half: int) -> None:
        """Take the peaks of the good rows once more, without what is not finite."""
        if self.device.type == "cpu" and good.numpy().all():  # no device to wait for
            return
        size = torch.where(good[:, None], rows.abs().float(), 0.0)
        self._reduce(self.state["channel_absmax"][half], size, None, "amax")

    def _largest(
        self,
        rows: Tensor,
        peak: Tensor,
        at: Address,
        fold: dict[str, Tensor],
        labels: Tensor | None,
    ) -> None:
        # The k largest values lie in the k rows with the largest absmax (of each expert).
        if labels is not None:
            peak = torch.where(labels < self.groups, peak, 0.0)
        k = min(TOP_K, rows.shape[0])
        _, index = torch.topk(peak, k)
        values = rows[index].double()
        size = torch.where(values.isfinite(), values.abs(), 0.0)
        size = torch.where(peak[index][:, None] > 0, size, 0.0).flatten()
        best, flat = torch.topk(size, min(TOP_K, size.numel()))
        row = index[flat // self.channels]
        where = torch.stack(
            [
                torch.full_like(row, at.step),
                *(_pick(of, row) for of in (at.sequence, at.position, at.token)),
                flat % self.channels,
            ],
            -1,
        )
        signed = torch.where(best > 0, values.flatten()[flat], 0.0)
        self._keep_top(signed, where, None if labels is None else labels[row], fold)

    def _keep_top(
        self, values: Tensor, where: Tensor, group: Tensor | None, fold: dict[str, Tensor]
    ) -> None:
        spread = values[None]
        if group is not None:
            mine = group[None, :] == torch.arange(self.groups, device=self.device)[:, None]
            spread = torch.where(mine, spread, 0.0)
        joined = torch.cat([fold["top"], spread], 1)
        places = torch.cat([fold["top_where"], where[None].expand(self.groups, -1, -1)], 1)
        _, order = torch.topk(joined.abs(), TOP_K)
        fold["top"].copy_(joined.gather(1, order))
        fold["top_where"].copy_(places.gather(1, order[..., None].expand(-1, -1, 5)))

    def _count_tokens(
        self, which: int, values: Tensor, fold: dict[str, Tensor], labels: Tensor | None
    ) -> None:
        codes = codes_of(values.float())[0]
        fold["tokens"][:, which] += count_codes(codes, FOLD_BITS, self.groups, labels)

    def _sampled_rows(
        self, rows: Tensor, half: int, fold: dict[str, Tensor], labels: Tensor | None
    ) -> None:
        codes, magnitude = codes_of(rows)
        finite = magnitude < 0x7F80
        self._count_values(codes, fold, labels)
        values = torch.where(finite, rows, 0).double()
        count = self._total(finite.long(), labels)
        if not self.started:
            self.started = True
            # Near the first mean the sums keep their precision.
            self.state["pivot"] += self._total(values, labels) / count.clamp(min=1)
        pivot = self.state["pivot"]
        if labels is not None:
            pivot = torch.cat([pivot, torch.zeros_like(pivot[:1])])[labels]
        deviation = torch.where(finite, values - pivot, 0.0)
        self.state["channel_count"][half] += count
        active = finite & (magnitude > 0)
        self.state["channel_active"][half] += self._total(active.long(), labels)
        sums = self.state["channel_sums"][half]
        sums[:, 0] += self._total(deviation, labels)
        sums[:, 1] += self._total(deviation * deviation, labels)
        n = finite.sum(-1)
        self._power_sums(values, finite, n, pivot.mean(-1)[:, None], fold, labels)
        fold["sampled"] += self._total(torch.ones_like(n), labels)
        self._token_shapes(values, finite, n, fold, labels)

    def _power_sums(
        self,
        values: Tensor,
        finite: Tensor,
        n: Tensor,
        centre: Tensor,
        fold: dict[str, Tensor],
        labels: Tensor | None,
    ) -> None:
        d = torch.where(finite, values - centre, 0.0)
        d2 = d * d
        powers = [n.double(), *(x.sum(-1) for x in (d, d2, d2 * d, d2 * d2))]
        fold["powers"] += self._total(torch.stack(powers, -1), labels)

    def _token_shapes(
        self,
        values: Tensor,
        finite: Tensor,
        n: Tensor,
        fold: dict[str, Tensor],
        labels: Tensor | None,
    ) -> None:
        mean = values.sum(-1) / n
        deviation = torch.where(finite, values - mean[:, None], 0.0)
        std = (deviation.square().sum(-1) / n).sqrt()
        rms = (values.square().sum(-1) / n).sqrt()
        self._count_tokens(1, rms, fold, labels)
        self._count_tokens(2, mean.abs() / std, fold, labels)

    def _count_values(
        self, codes: Tensor, fold: dict[str, Tensor], labels: Tensor | None
    ) -> None:
        if labels is None:
            full = counted(codes.flatten(), 1 << 16).view(1, -1)
            self.state["histogram"] += coarsened(full, 7, self.bits)
            fold["histogram"] += coarsened(full, 7, FOLD_BITS)
            return
        counts = count_codes(codes, self.bits, self.groups, labels)
        self.state["histogram"] += counts
        fold["histogram"] += coarsened(counts, self.bits, FOLD_BITS)

    def rename_steps(self) -> None:
        """Call the steps of the largest values so far step 0."""
        self.fold_state["top_where"][..., 0].clamp_(max=0)
        for line in self.spilled.get("extremes", ()):
            line["top_step"] = np.minimum(line["top_step"], 0)

    # Reading

    def spill(self) -> None:
        """Copy the folds' part to the host and start it afresh."""
        if not self.used:
            return
        state = _to_host(self.fold_state | {"pivot": self.state["pivot"]})
        for lane, fold in self.used.items():
            for group, expert in enumerate(self.experts):
                if state["seen"][lane, group]:
                    rows = fold_rows(self._part(state, group), lane, fold)
                    _extend(self.spilled, rows, {"expert": expert, "fold": fold}, self.dtype)
        self._fresh_folds()

    def rows(self) -> Rows:
        """Return the rows of the window for the tables of a run (without the site's keys).

        Each row holds "fold", "expert" and a sketch's columns; the state starts afresh.
        """
        self.spill()
        state = _to_host(self.state)
        seen = {line["expert"] for line in self.spilled.get("moments", ())}
        for group, expert in enumerate(self.experts):
            if expert in seen:
                for table, fold, row in whole_rows(self._part(state, group)):
                    line = {"expert": expert, "fold": fold, **row}
                    self.spilled.setdefault(table, []).append(line)
        found = self.spilled
        self._fresh_window()
        return found

    def _part(self, state: dict[str, np.ndarray], group: int) -> State:
        exact = self.dtype in {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
        return State(state, group, self.channels, self.bits, exact)


def _arrays(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the state on the CPU as arrays over the same memory."""
    return {name: value.numpy() for name, value in state.items()}


def _to_host(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in state.items()}


def _extend(found: Rows, rows: Rows, key: dict[str, Any], dtype: str) -> None:
    for table, lines in rows.items():
        extra = key | {"dtype": dtype} if table == "moments" else key
        found.setdefault(table, []).extend({**extra, **line} for line in lines)


def _pick(values: Tensor | None, index: Tensor) -> Tensor:
    return torch.full_like(index, -1) if values is None else values[index].long()

"""swap, swapped, apply: change a model in place, and give it back as it was."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ffn_probe.anatomy import Block
from ffn_probe.discover import Scan, scan
from ffn_probe.errors import ModelError, SwapError
from ffn_probe.probes.attach import check_watchable, chosen_blocks
from ffn_probe.swaps.carrying import carry_out
from ffn_probe.swaps.swap import Swap
from ffn_probe.swaps.swapped import Left, Swapped


def swap(  # noqa: PLR0913 - what can be swapped
    model: nn.Module,
    *,
    norm: str | None = None,
    activation: str | None = None,
    gating: str | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: Mapping[str, str] | None = None,
    blocks: str | int | Iterable[str | int] | None = None,
    norms: str = "ffn",
    how: str = "naive",
    example: Any = None,
    found: Scan | Sequence[Block] | None = None,
    calibration: Iterable[Any] | None = None,
) -> "Swapping":
    """Return a context manager in which `model` computes with other parts.

    `with swap(model, norm="rmsnorm", example=batch) as done:` changes the model on entering,
    all that was asked for or nothing, and gives back a Swapped; on leaving, also by an
    exception, parameters, buffers, modules, hooks and modes are the very objects of before.
    What is trained inside (a shared gain, say) stays trained. No random number is drawn.

    Args:
        model: the model. Gradients flow through what is swapped in.
        norm: a norm of the zoo ("rmsnorm", "rmsnorm_fp32", "rmsnorm_1p", "rmsnorm_native",
            "rmsnorm_eps_outside", "layernorm", "layernorm_1p", "prmsnorm", "l2norm", "dyt"),
            "layernorm_nobias" or "none"; with constants: "rmsnorm:eps=1e-6", "dyt:alpha=0.7".
            Its eps is otherwise the one of the norm it replaces.
        activation: an activation of the zoo, "swish_beta:beta=1.5"; a GLU becomes
            act(gate) * value, also where it was a joint form with clamps.
        gating: "gated" (an MLP becomes the GLU that equals it: its value path begins at one),
            "mlp" (a GLU becomes act(gate) times the mean of its value path on `calibration`),
            "swiglu", "geglu", "geglu_tanh", "reglu", "glu", "bilinear", a joint form of the
            zoo ("gpt_oss_swiglu:limit=7", "clamped_swiglu"), or "smooth_swiglu" (scales from
            `calibration` are folded into up and down; the output stays).
        dtype: "bfloat16", "float16", "float32", "float64"; of the whole model, or of the
            blocks that `blocks` names, with casts around them.
        quantize: role or matrix ("w_gate", "w_up", "w_down") -> format and granularity
            ("int8:token", "int4:group=32", "mxfp4"), see `ffn_probe.formats`. A matrix has one
            scale an output row by "channel". Rounding passes gradients unchanged.
        blocks: glob patterns of block names, or layer ordinals (negative: from the end). None:
            all that discovery did not flag.
        norms: "ffn" (the norms before the chosen blocks) or "all" (every norm module over
            d_model channels).
        how: "naive", as a hasty edit does it: the stored vectors are kept as they are (a gain
            w is read as 1 + w by "rmsnorm_1p") and the bias goes where the form has none.
            "matched": gain and bias are refitted on `calibration` so that mean and variance of
            each channel of the norm's output agree, and the hidden tensor is scaled to the RMS
            of before, one factor a block (not by gating="mlp"). "exact": norms of a residual
            stream, without changing what the model computes, or an error that says why not.
        example: an input for one forward pass, from which the blocks are found; the changed
            model is then run on it once, to see that the swap takes place.
        found: what `scan` or `discover` returned for this model, instead of an example.
        calibration: batches for "matched", "mlp" and "smooth_swiglu".

    Raises:
        UnknownName, SwapError, FormatError: at once, for names that are unknown and wishes that
            contradict; on entering, where a swap applies to nothing or cannot be done.
        ModelError, ExampleError: on entering, as `attach`.
    """
    wanted = Swap.of(
        norm=norm, activation=activation, gating=gating, dtype=dtype, quantize=quantize,
        blocks=blocks, norms=norms, how=how,
    )  # fmt: skip
    return Swapping(model, wanted, example=example, found=found, calibration=calibration)


def swapped(
    model: nn.Module,
    wanted: Swap,
    *,
    example: Any = None,
    found: Scan | Sequence[Block] | None = None,
    calibration: Iterable[Any] | None = None,
) -> "Swapping":
    """Return what `swap` does, for a Swap."""
    return Swapping(model, wanted, example=example, found=found, calibration=calibration)


def apply(
    model: nn.Module,
    wanted: Swap,
    *,
    example: Any = None,
    found: Scan | Sequence[Block] | None = None,
    calibration: Iterable[Any] | None = None,
) -> Swapped:
    """Change `model` for good, as `swap` does for a while; its state_dict saves and loads.

    A fresh model takes such a state_dict after the same `apply` on it. Raises as `swap`.
    """
    swapping = Swapping(model, wanted, example=example, found=found, calibration=calibration)
    return swapping.keep()


class Swapping:
    """A swap of one model that can be entered and left, once at a time."""

    def __init__(
        self,
        model: nn.Module,
        wanted: Swap,
        *,
        example: Any = None,
        found: Scan | Sequence[Block] | None = None,
        calibration: Iterable[Any] | None = None,
    ) -> None:
        self.model = model
        self.wanted = wanted
        self._example = example
        self._found = found
        self._calibration = calibration
        self._undo: ExitStack | None = None
        self._modules: frozenset[int] = frozenset()

    def __enter__(self) -> Swapped:
        """Change the model and say how; nothing is changed when it raises.

        Raises:
            SwapError: it is entered already, applies to nothing, or cannot be done.
        """
        if self._undo is not None:
            raise SwapError(f"the swap {self.wanted.text} is entered already; leave it first")
        before = frozenset(id(module) for module in self.model.modules())
        with ExitStack() as stack:
            done = self._carried_out(stack)
            self._undo = stack.pop_all()
        # New modules are of this swap alone: another that stands on them came later.
        self._modules = before | {id(module) for module in self.model.modules()}
        _ENTERED.append(self)
        return done

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the model back as it was.

        Raises:
            SwapError: it was not entered, or a later swap of the same model was not left yet;
                nothing is undone then, and it can be left after that one.
        """
        if self._undo is None:
            raise SwapError(
                f"the swap {self.wanted.text} is not entered; there is nothing to undo"
            )
        later = _ENTERED[_ENTERED.index(self) + 1 :]
        above = [other for other in later if other._modules & self._modules]
        if above:
            raise SwapError(
                f"the swap {self.wanted.text} cannot be undone before the one entered after "
                f"it, {above[-1].wanted.text}; leave that first. Both are still in place"
            )
        undo, self._undo = self._undo, None
        _ENTERED.remove(self)
        undo.close()

    def keep(self) -> Swapped:
        """Change the model for good and say how.

        Raises:
            SwapError: as on entering, or a swap of the same model is entered.
        """
        mine = {id(module) for module in self.model.modules()}
        below = [other for other in _ENTERED if other._modules & mine]
        if below:
            raise SwapError(
                f"{self.wanted.text} cannot be applied for good on top of the swap "
                f"{below[-1].wanted.text}, which is to be undone; leave that first"
            )
        done = self.__enter__()
        _ENTERED.remove(self)
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.pop_all()
        return done

    def _carried_out(self, stack: ExitStack) -> Swapped:
        check_watchable(self.model)
        known, named = self._known(), self.wanted.blocks is not None
        blocks = chosen_blocks(known, self.wanted.blocks, allow_flagged=named)
        flagged = [b for b in known if b.flags and not named]
        return carry_out(
            self.model, self.wanted, blocks, stack,
            example=self._example, calibration=self._calibration,
            left=[Left("block", b.name, f"flagged: {', '.join(b.flags)}") for b in flagged],
        )  # fmt: skip

    def _known(self) -> Sequence[Block]:
        if self._found is not None:
            found = self._found
        elif self._example is None:
            raise SwapError(
                "a swap needs example= (an input of the model) or found= (from scan) to know "
                "where the blocks are"
            )
        else:
            found = scan(self.model, self._example)
        scanned = found if isinstance(found, Scan) else Scan(tuple(found), ())
        if not scanned.blocks:
            near = "; ".join(f"{s.path}: {s.reason}" for s in scanned.skipped[:3]) or "nothing"
            raise ModelError(
                f"no FFN in {type(self.model).__name__}; there is nothing to swap. Near: {near}"
            )
        return scanned.blocks


_ENTERED: list[Swapping] = []
"""Swaps that are entered, in order; each is left before those below it on the same model."""

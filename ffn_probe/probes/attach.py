"""attach: check what was asked for and return a Probe; nothing changes before it is entered."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import ROLES, Block
from ffn_probe.discover import Scan, scan
from ffn_probe.discover.calling import check_readable
from ffn_probe.errors import AttachError, ModelError, UnknownName
from ffn_probe.probes.accumulate import FOLDS
from ffn_probe.probes.description import caveats, described, versions
from ffn_probe.probes.exported import check_not_exported, unwrapped
from ffn_probe.probes.loss_scale import LossScale, Scaler
from ffn_probe.probes.observe import Watching
from ffn_probe.probes.options import Options
from ffn_probe.probes.probe import Probe
from ffn_probe.probes.series import Series, Sink
from ffn_probe.probes.telling import Telling
from ffn_probe.probes.vocabulary import token_texts
from ffn_probe.probes.weight_watch import WeightWatch
from ffn_probe.probes.weights import weight_rows
from ffn_probe.runs import Manifest, RunWriter
from ffn_probe.vigil import Sighting

_RANGES = {
    "bits": (1, 7, "1..7"),
    "weights_every": (0, 1 << 40, "a whole number of at least 0"),
}
WINDOW = 64
"""Steps a window by default: a flush costs about what one step of a small model does."""


def attach(  # noqa: PLR0913 - the options of a recording
    model: nn.Module,
    *,
    to: str | os.PathLike[str],
    example: Any = None,
    found: Scan | Sequence[Block] | None = None,
    blocks: str | Iterable[str | int] | None = None,
    roles: Iterable[str] | None = None,
    experts: Iterable[int] | None = None,
    gradients: bool = False,
    every: int = 1,
    rows: int | str = 512,
    window: int = WINDOW,
    bits: int = 7,
    seed: int = 0,
    allow_flagged: bool = False,
    allow_silent: bool = False,
    weights: bool = True,
    vocabulary: object = None,
    when: str = "always",
    scaler: Scaler = None,
    weights_every: int = 0,
    alarms: bool = True,
    sinks: Iterable[Sink] = (),
    series: Series | None = None,
    on_alarm: Callable[[Sighting], None] | None = None,
    tags: Mapping[str, str] | None = None,
    command: str = "",
) -> "Probe":
    """Return a Probe on the FFNs of `model`; use it in a with statement.

    Args:
        model: the model; it is not changed. What torch.compile returned stands for the module
            it was given: the probe is part of the graphs that are compiled while it watches.
        to: the folder of the run, which must not exist.
        example: an input for one forward pass, from which the blocks are found.
        found: what `scan` or `discover` returned for this model, instead of an example.
        blocks: which blocks: glob patterns of names, or layer ordinals (negative ones count
            from the end). None: all.
        roles: which of anatomy.ROLES. None: all.
        experts: which experts of a mixture. None: all.
        gradients: record the gradients of the same sites as well.
        every: watch every n-th step only.
        rows: sampled rows a call, or "all".
        window: steps after which the state goes to disk.
        bits: mantissa bits of the histograms, 1..7.
        seed: of the probe's own random generators.
        allow_flagged: also watch blocks that discovery flagged.
        allow_silent: a tap that never fired while its block ran is a note in the run, not an
            AttachError at the end (the run is complete and closed either way).
        weights: keep the norms of the blocks' weights and the cosines of gate and up, as they
            are now, and the gains of the norms; the weights are read once, here.
        vocabulary: what gives the tokens of the largest values their texts, which the run then
            keeps: a tokenizer (`convert_ids_to_tokens` or `decode`), or a mapping from ids.
        when: "always", or only while the model is in "training" or in "evaluation" mode: a
            validation between the steps of a training is then not part of its windows.
        scaler: with gradients, the torch.amp.GradScaler that scales the loss (or what the loss
            is multiplied by: a number, or a callable that returns it); the gradients are
            divided by the scale of their own backward.
        weights_every: windows from one reading of the weights to the next; 0 for never. As
            metrics `weights/BLOCK/NAME`: the |cosines| of gate and up, the gains of the norm,
            the spectral norms.
        alarms: watch the windows of a training while it runs: alarms go to the log
            ("ffn_probe"), to `probe.alarms`, to `on_alarm` and the sinks, and into the run.
        sinks: callables that take (step, {name: value}) once a window (see
            ffn_probe.integrations.sinks).
        series: which numbers the sinks are given.
        on_alarm: called with every alarm.
        tags: free text, stored in the run.
        command: the command line, stored in the run.

    Raises:
        ModelError: the model has no FFN, or none that can be watched.
        ExampleError: the model rejected the example.
        AttachError: neither `example` nor `found` was given, or an option is out of range.
        UnknownName: no block, role, expert or mode has that name.
    """
    options = Options(every, window, when, allow_silent)
    _check_options(bits=bits, rows=rows, weights_every=weights_every)
    RunWriter.check_free(to)
    model = uncompiled(model)
    check_watchable(model)
    scanned = _scanned(model, example, found)
    chosen = chosen_blocks(scanned.blocks, blocks, allow_flagged=allow_flagged)
    watching = Watching(
        rows=None if rows == "all" else int(rows),
        bits=bits,
        roles=_roles(chosen, roles),
        experts=_experts(chosen, experts),
        gradients=gradients,
        seed=seed,
        scale=None if scaler is None else LossScale(scaler),
    )
    read, notes = weight_rows(model, chosen, watching.experts) if weights else ([], [])
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=described(model),
        blocks=chosen,
        sampling={
            "rows": rows, "bits": bits, "every": every, "window": window, "folds": FOLDS,
            "seed": seed, "gradients": gradients, "when": when,
            "weights_every": weights_every, "unscaled": scaler is not None,
            "roles": sorted(watching.roles) if watching.roles else "all",
        },
        versions=versions(),
        device=str(next(model.parameters(), torch.zeros(0)).device),
        tags=dict(tags or {}),
        skipped=tuple({"path": s.path, "reason": s.reason} for s in scanned.skipped),
        warnings=(*caveats(model, scanned.blocks, chosen), *notes),
        command=command,
    )  # fmt: skip
    return Probe(
        model, Path(to), manifest, watching,
        options=options, weights=read, texts=token_texts(vocabulary),
        weight_watch=WeightWatch(model, chosen, watching.experts, every=weights_every),
        telling=Telling(alarms=alarms, sinks=tuple(sinks), series=series, on_alarm=on_alarm),
    )  # fmt: skip


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile wrapped, or the model itself."""
    while isinstance(getattr(model, "_orig_mod", None), nn.Module):
        model = model.get_submodule("_orig_mod")
    return model


def check_watchable(model: nn.Module) -> None:
    """Raise ModelError when a probe could not watch this model."""
    check_not_exported(model)
    check_readable(model)
    copied = [name or "the model" for name, m in model.named_modules() if _is_copied(m)]
    if copied:
        raise ModelError(
            f"{copied[0]} is a DataParallel over several devices: every forward runs copies of "
            "the model in threads, whose values a probe cannot keep apart. Use "
            "DistributedDataParallel (one process a device), or record model.module."
        )
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            "the model is wrapped by torch.compile: its parts are those of model._orig_mod, "
            "the module it was given. Pass that."
        )
    packed = [
        (name, p) for name, p in model.named_parameters() if p.dim() > 1 and _is_packed(p)
    ]
    if packed:
        name, parameter = packed[0]
        raise ModelError(
            f"{len(packed)} weights are quantized or packed (first: {name}, "
            f"{type(parameter).__name__} of {parameter.dtype}). Probes watch floating-point "
            "weights: dequantize the model, or record the model before quantization."
        )


def _is_copied(module: nn.Module) -> bool:
    return isinstance(module, nn.DataParallel) and len(module.device_ids) > 1


def _is_packed(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        return True
    return type(parameter).__module__.startswith(("torchao", "bitsandbytes"))


def _check_options(**options: int | str) -> None:
    rows = options.pop("rows")
    if rows != "all" and (not isinstance(rows, int) or rows < 1):
        raise AttachError(f"rows is {rows!r}; expected a count of at least 1, or 'all'")
    for name, value in options.items():
        low, high, what = _RANGES[name]
        if not isinstance(value, int) or not low <= value <= high:
            raise AttachError(f"{name} is {value!r}; expected {what}")


def _scanned(model: nn.Module, example: Any, found: Scan | Sequence[Block] | None) -> Scan:
    if found is not None:
        blocks, skipped = (
            (found.blocks, found.skipped) if isinstance(found, Scan) else (found, ())
        )
        scanned = Scan(tuple(unwrapped(block) for block in blocks), skipped)
    elif example is None:
        raise AttachError("attach needs example= (an input of the model) or found= (from scan)")
    else:
        scanned = scan(model, example)
    if not scanned.blocks:
        near = "; ".join(f"{s.path}: {s.reason}" for s in scanned.skipped[:3]) or "nothing"
        raise ModelError(f"no FFN in {type(model).__name__}. Near: {near}")
    return scanned


def chosen_blocks(
    known: Sequence[Block],
    wanted: str | Iterable[str | int] | None,
    *,
    allow_flagged: bool,
) -> tuple[Block, ...]:
    """Return the blocks that glob patterns of names, or layer ordinals, stand for.

    Raises:
        UnknownName: a pattern stands for no block.
        ModelError: all that are wanted are flagged, and `allow_flagged` is false.
    """
    patterns = [wanted] if isinstance(wanted, str) else wanted
    if patterns is not None:
        keep: set[str] = set()
        for pattern in patterns:
            hits = _matching(known, pattern)
            if not hits:
                names = [block.name for block in known]
                raise UnknownName.of("block", str(pattern), names, "Ordinals count layers.")
            keep |= hits
        known = [block for block in known if block.name in keep]
    usable = tuple(block for block in known if allow_flagged or not block.flags)
    if not usable:
        flags = "; ".join(f"{b.name}: {', '.join(b.flags)}" for b in known[:3])
        raise ModelError(
            f"all {len(known)} blocks are flagged ({flags}). allow_flagged=True watches them."
        )
    return usable


def _matching(known: Sequence[Block], pattern: str | int) -> set[str]:
    if isinstance(pattern, str) and not pattern.lstrip("-").isdigit():
        return {b.name for b in known if fnmatchcase(b.name, pattern)}
    layers = sorted({b.layer for b in known})
    ordinal = int(pattern)
    layer = layers[ordinal] if ordinal < 0 and -ordinal <= len(layers) else ordinal
    return {b.name for b in known if b.layer == layer}


def _roles(blocks: Sequence[Block], wanted: Iterable[str] | None) -> frozenset[str] | None:
    if wanted is None:
        return None
    roles = frozenset([wanted] if isinstance(wanted, str) else wanted)
    for role in roles:
        if role not in ROLES:
            raise UnknownName.of("role", role, ROLES)
    there = [role for role in ROLES if any(role in block.roles for block in blocks)]
    if roles and not roles & set(there):
        raise UnknownName(
            f"no chosen block has {' or '.join(sorted(roles))}; the roles of the "
            f"{len(blocks)} blocks are {', '.join(there)}"
        )
    return roles or None


def _experts(blocks: Sequence[Block], wanted: Iterable[int] | None) -> frozenset[int] | None:
    if wanted is None:
        return None
    chosen = frozenset(wanted)
    most = max((block.experts for block in blocks), default=0)
    for expert in chosen:
        if not 0 <= expert < most:
            raise UnknownName(
                f"no expert {expert}; "
                + (f"experts are 0..{most - 1}" if most else "no chosen block has experts")
            )
    return chosen

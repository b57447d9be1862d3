"""Attach to a model: `attach` returns a Probe, which watches the FFNs while it is entered.

The model is not changed: outputs, gradients, random state, parameters and mode are those
of the bare model, and after the exit no hook is left. Attaching is all or nothing.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import ROLES, Block
from ffn_probe.discover import Scan, scan
from ffn_probe.discover.trace import check_readable
from ffn_probe.errors import AttachError, ModelError, UnknownName
from ffn_probe.probes.accumulate import FOLDS
from ffn_probe.probes.inputs import Grid, grids_of, input_hash, mixed
from ffn_probe.probes.observe import Observer, Watching
from ffn_probe.probes.taps import Watched, install, recomputing
from ffn_probe.runs import Manifest, Run, RunWriter

WINDOW = 64
"""Steps a window by default: a flush costs about what one step of a small model does."""

_FEW_TOKENS = 64
_WATCHED = ("torch", "transformers", "numpy", "ffn-probe")
_CONFIG = (
    "model_type", "hidden_act", "hidden_activation", "activation_function", "hidden_size",
    "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "num_local_experts",
    "num_experts", "num_experts_per_tok", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


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
    tags: Mapping[str, str] | None = None,
    command: str = "",
) -> "Probe":
    """Return a Probe on the FFNs of `model`; use it in a with statement.

    Args:
        model: the model; it is not changed.
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
        tags: free text, stored in the run.
        command: the command line, stored in the run.

    Raises:
        ModelError: the model has no FFN, or none that can be watched.
        ExampleError: the model rejected the example.
        AttachError: neither `example` nor `found` was given, or an option is out of range.
        UnknownName: no block, role or expert has that name.
    """
    _check_options(every=every, window=window, bits=bits, rows=rows)
    RunWriter.check_free(to)
    check_watchable(model)
    scanned = _scanned(model, example, found)
    chosen = _chosen(scanned.blocks, blocks, allow_flagged=allow_flagged)
    watching = Watching(
        rows=None if rows == "all" else int(rows),
        bits=bits,
        roles=_roles(chosen, roles),
        experts=_experts(chosen, experts),
        gradients=gradients,
        seed=seed,
    )
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=_description(model),
        blocks=chosen,
        sampling={
            "rows": rows, "bits": bits, "every": every, "window": window, "folds": FOLDS,
            "seed": seed, "gradients": gradients,
            "roles": sorted(watching.roles) if watching.roles else "all",
        },
        versions=_versions(),
        device=str(next(model.parameters(), torch.zeros(0)).device),
        tags=dict(tags or {}),
        skipped=tuple({"path": s.path, "reason": s.reason} for s in scanned.skipped),
        warnings=tuple(_caveats(model, scanned.blocks, chosen)),
        command=command,
    )  # fmt: skip
    return Probe(
        model, Path(to), manifest, watching,
        every=every, window=window, allow_silent=allow_silent,
    )  # fmt: skip


class Probe:
    """Probes on a model, from `attach`. `step` ends a step; `run` is the run on disk."""

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        manifest: Manifest,
        watching: Watching,
        *,
        every: int,
        window: int,
        allow_silent: bool = False,
    ) -> None:
        self.model = model
        self.folder = folder
        self.every = every
        self.window = window
        self.allow_silent = allow_silent
        self.blocks = manifest.blocks
        self.observer = Observer(watching)
        self._manifest = manifest
        self._watched = [Watched(block) for block in manifest.blocks]
        self._stack = ExitStack()
        self._writer: RunWriter | None = None
        self._live = False
        self._batches = 0  # forwards that began a batch
        self._steps: int | None = None  # calls of `step`; None until the first
        self._windows = 0
        self._pending = 0  # watched steps since the last flush
        self._hashes: dict[int, Tensor] = {}
        self._counts = {fold: [0, 0] for fold in range(FOLDS)}  # batches, tokens
        self._metrics: list[tuple[int, str, Any]] = []
        self._ever: set[tuple[str, str]] = set()
        self._notes: dict[str, None] = {}

    # Entering and leaving

    def __enter__(self) -> "Probe":
        if self._writer is not None:
            raise AttachError(f"the probe that records to {self.folder} was used before")
        with ExitStack() as stack:
            writer = RunWriter.create(self.folder, self._manifest)
            stack.callback(writer.discard)
            hooks = stack.enter_context(ExitStack())
            model = self.model
            before = model.register_forward_pre_hook(self._before, with_kwargs=True)
            hooks.callback(before.remove)
            after = model.register_forward_hook(self._after, always_call=True)
            hooks.callback(after.remove)
            install(model, self._watched, self.observer.receive, self._awake, hooks)
            self._stack = hooks.pop_all()
            stack.pop_all()
        self._writer = writer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live = False
        self._stack.close()
        writer = self._writer
        if writer is None:
            return
        if self._batches == 0 and not self._ever and not self._fired():
            writer.discard()
            if error is None:
                raise AttachError(
                    f"nothing was recorded to {self.folder}: the model did not run while the "
                    "probe was attached. Call this very module; a compiled copy calls no hooks."
                )
            return
        try:
            self._flush()
        finally:  # also when the disk is full: what is complete is closed, nothing is removed
            if self._windows:
                notes = (*self._manifest.warnings, *self._audit())
                writer.close(**self._state(), warnings=notes)
            else:
                writer.discard()
        if error is None and not self._ever:
            raise AttachError(
                f"no tap of {len(self.blocks)} blocks fired in {self._batches} forward passes. "
                "Was the model compiled, or does another path run than with the example?"
            )
        silent = self._silent()
        if error is None and silent and not self.allow_silent:
            raise AttachError(
                f"{len(silent)} taps never fired while their blocks ran (first: {silent[0]}): "
                "another path runs than with the example. The rest was recorded to "
                f"{self.folder}. Give an example like the batches, leave the role out "
                "(roles=...), or pass allow_silent=True."
            )

    @property
    def run(self) -> Run:
        """The run as it stands on disk."""
        return Run.open(self.folder)

    # What the loop says

    def step(self, **metrics: float | Tensor) -> None:
        """End a step, with numbers to keep beside the telemetry (loss=..., lr=...).

        Tensors are read at the next flush, not here. Without calls of `step`, every forward
        of the model is a step.
        """
        now = self._step
        self._metrics += [
            (now, name, value.detach() if isinstance(value, Tensor) else float(value))
            for name, value in metrics.items()
        ]
        self._steps = now + 1
        if self._pending >= self.window:
            self._flush()

    @property
    def _step(self) -> int:
        return self._steps if self._steps is not None else max(self._batches - 1, 0)

    # Hooks of the model

    def _awake(self) -> bool:
        return self._live and (self.observer.watching.gradients or not recomputing())

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        if recomputing():
            return
        with torch._C.DisableTorchFunction():
            grids = grids_of(args, kwargs)
            starts = not any(_continues(g, kwargs) for g in grids[:1])
            if starts:
                if self._steps is None and self._pending >= self.window:
                    self._flush()
                self._batches += 1
            self._live = self._step % self.every == 0
            if not self._live:
                return
            fold = max(self._batches - 1, 0) % FOLDS
            self._pending += starts
            self._remember(args, kwargs, grids, fold, starts=starts)
            self.observer.begin(grids, fold, self._step)

    def _remember(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        grids: tuple[Grid, ...],
        fold: int,
        *,
        starts: bool,
    ) -> None:
        code = input_hash(args, kwargs)
        if code is not None:
            self._hashes[fold] = mixed(self._hashes.get(fold), code)
        self._counts[fold][0] += starts
        self._counts[fold][1] += grids[0].rows if grids else 0

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args, output
        if not recomputing():
            self.observer.end()

    # Windows

    def _flush(self) -> None:
        """Write the window: one copy of the state, one part a table."""
        if self._writer is None:
            return
        self._pending = 0
        tables = self.observer.tables(self._windows)
        metrics = [
            {
                "window": self._windows,
                "step": step,
                "name": name,
                "value": float(value),
                "dp": 0,
            }
            for step, name, value in self._metrics
        ]
        self._metrics.clear()
        self._note_silence()
        if not any(tables.values()) and not metrics:
            return
        self._writer.write_window(self._windows, tables | {"metrics": metrics})
        self._windows += 1
        self._writer.update(**self._state())

    def _state(self) -> dict[str, Any]:
        folds = [
            {
                "hash": format(int(self._hashes[k]) % (1 << 64), "016x")
                if k in self._hashes
                else "",
                "batches": self._counts[k][0],
                "tokens": self._counts[k][1],
            }
            for k in range(FOLDS)
        ]
        return {
            "folds": tuple(folds),
            "windows": self._windows,
            "steps": self._steps if self._steps is not None else self._batches,
            "tokens": sum(tokens for _, tokens in self._counts.values()),
        }

    def _fired(self) -> bool:
        return any(item.fired for item in self._watched)

    def _note_silence(self) -> None:
        """Note every role that fired less often in this window than its block ran."""
        for item in self._watched:
            fired = item.fired
            self._ever |= {(item.block.name, role) for role in fired}
            most = max(fired.values(), default=0)
            for role in item.block.roles if fired else ():
                missed = most - fired.get(role, 0)
                # In a mixture the experts run as often as the router likes.
                if missed and (role not in fired or not item.block.experts):
                    self._notes.setdefault(
                        f"{item.block.name}: the tap of {role!r} missed {missed} of {most} "
                        f"calls in window {self._windows}"
                    )
            fired.clear()

    def _silent(self) -> list[str]:
        """Return the wanted taps that never fired although their block ran."""
        wanted = self.observer.watching.roles
        ran = {name for name, _ in self._ever}
        return [
            f"{block.name}/{role}"
            for block in self.blocks
            for role in block.roles
            if block.name in ran
            and (wanted is None or role in wanted)
            and (block.name, role) not in self._ever
        ]

    def _audit(self) -> list[str]:
        silent = [
            b.name for b in self.blocks if not any((b.name, r) in self._ever for r in ROLES)
        ]
        notes = [*self._notes, *self.observer.warnings]
        if silent:
            notes.append(f"{len(silent)} blocks never ran (first: {silent[0]})")
        if self._writer is not None and any(b.experts for b in self.blocks):
            notes += _rare_experts(self.run, self.blocks)
        return notes


def check_watchable(model: nn.Module) -> None:
    """Raise ModelError when a probe could not watch this model."""
    check_readable(model)
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            "the model is wrapped by torch.compile: probes on it would not fire. Attach to "
            "model._orig_mod (the eager module)."
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


def _is_packed(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or parameter.element_size() == 1:
        return True
    return type(parameter).__module__.startswith(("torchao", "bitsandbytes"))


def _check_options(**options: int | str) -> None:
    rows = options.pop("rows")
    if rows != "all" and (not isinstance(rows, int) or rows < 1):
        raise AttachError(f"rows is {rows!r}; expected a count of at least 1, or 'all'")
    for name, value in options.items():
        top = 7 if name == "bits" else None
        if not isinstance(value, int) or value < 1 or (top is not None and value > top):
            what = f"1..{top}" if top else "a whole number of at least 1"
            raise AttachError(f"{name} is {value!r}; expected {what}")


def _scanned(model: nn.Module, example: Any, found: Scan | Sequence[Block] | None) -> Scan:
    if isinstance(found, Scan):
        scanned = found
    elif found is not None:
        scanned = Scan(tuple(found), ())
    elif example is None:
        raise AttachError("attach needs example= (an input of the model) or found= (from scan)")
    else:
        scanned = scan(model, example)
    if not scanned.blocks:
        near = "; ".join(f"{s.path}: {s.reason}" for s in scanned.skipped[:3]) or "nothing"
        raise ModelError(f"no FFN in {type(model).__name__}. Near: {near}")
    return scanned


def _chosen(
    known: Sequence[Block],
    wanted: str | Iterable[str | int] | None,
    *,
    allow_flagged: bool,
) -> tuple[Block, ...]:
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


def _description(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    named = {key: getattr(config, key, None) for key in _CONFIG} if config is not None else {}
    simple = {k: v for k, v in named.items() if isinstance(v, str | int | float | bool)}
    return {
        "class": type(model).__name__,
        "name": str(getattr(config, "_name_or_path", "") or "")[:200],
        "dtype": dtypes[0] if len(dtypes) == 1 else ", ".join(dtypes) or "none",
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": model.training,
        "config": simple,
    }


def _versions() -> dict[str, str]:
    found = {"python": python_version(), "platform": sys.platform}
    for name in _WATCHED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _caveats(model: nn.Module, known: Sequence[Block], chosen: Sequence[Block]) -> list[str]:
    names = {block.name for block in chosen}
    flagged = [b for b in known if b.flags and b.name not in names]
    notes = [f"{b.name} was not watched: {', '.join(b.flags)}" for b in flagged]
    if not model.training and any(
        isinstance(m, nn.TransformerEncoderLayer) for m in model.modules()
    ):
        notes.append(
            "torch turns the fused fast path of nn.TransformerEncoderLayer off while hooks are "
            "attached; outputs may differ from the bare model in the last bits"
        )
    return notes


def _rare_experts(run: Run, blocks: Sequence[Block]) -> list[str]:
    """Return a note a block on experts with too few tokens to judge."""
    rows: dict[str, dict[int, int]] = {}
    for site in run.sites:
        if site.expert >= 0:
            seen = rows.setdefault(site.block, {})
            seen[site.expert] = max(seen.get(site.expert, 0), run.rows(site)[0])
    notes = []
    for block in blocks:
        if block.name not in rows:
            continue
        few = [e for e in range(block.experts) if rows[block.name].get(e, 0) < _FEW_TOKENS]
        if few:
            listed = ", ".join(f"#{e}" for e in few[:8]) + (", ..." if len(few) > 8 else "")
            notes.append(
                f"{block.name}: too few tokens (under {_FEW_TOKENS}) for {len(few)} of "
                f"{block.experts} experts: {listed}"
            )
    return notes


def _continues(grid: Grid, kwargs: Mapping[str, Any]) -> bool:
    """Whether this forward goes on from a cache: a decode step of one batch."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return False
    try:
        return int(cache.get_seq_length()) > 0
    except (AttributeError, TypeError, ValueError):
        return grid.length == 1

"""Whether two runs may be compared, and what a reader has to know before believing it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ffn_probe.compare.floor import LEAST_FOLDS
from ffn_probe.errors import CompareError
from ffn_probe.runs import Run

_TOKENIZER_KEYS = ("tokenizer", "tokenizer_hash", "vocabulary", "vocab_size")
_SAMPLING_KEYS = ("rows", "bits", "every", "folds", "seed", "gradients")


@dataclass(frozen=True, slots=True)
class Note:
    """Something that limits what the comparison says.

    "warn": the numbers hold, for what they are. "refuse": they answer another question than
    the one that was asked; they are shown, and no conclusion should rest on them.
    """

    level: Literal["warn", "refuse"]
    text: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """Whether the folds of two runs saw the same inputs, and what to say about it."""

    paired: bool
    notes: tuple[Note, ...]


def check_kind(*runs: Run) -> None:
    """Refuse runs that hold no telemetry.

    Raises:
        CompareError: a run is of another kind.
    """
    for run in runs:
        if run.manifest.kind != "telemetry":
            told = (
                f" It holds both models already: ffn-probe show {run.path}, or "
                f"ffn-probe report {run.path}"
                if run.manifest.kind == "paired"
                else ""
            )
            raise CompareError(
                f"{run.name} is a {run.manifest.kind} run; compare takes telemetry runs, "
                f"as record and attach write them.{told}"
            )


def inputs(a: Run, b: Run) -> Inputs:
    """Return whether every fold saw the same inputs in both runs, by their hashes."""
    hashes = [_hashes(run) for run in (a, b)]
    if not any(hashes[0]) or not any(hashes[1]):
        text = "the inputs were not hashed: the runs are compared as unpaired"
        return Inputs(paired=False, notes=(Note("warn", text),))
    if hashes[0] == hashes[1]:
        return Inputs(paired=True, notes=())
    same = sum(x == y != "" for x, y in zip(*hashes, strict=True))
    used = sum(bool(x or y) for x, y in zip(*hashes, strict=True))
    text = (
        f"the runs saw other inputs ({same} of {used} folds agree): unpaired comparison, "
        "with a higher floor than a paired one"
    )
    return Inputs(paired=False, notes=(Note("warn", text),))


def validity(a: Run, b: Run) -> tuple[Note, ...]:
    """Return what limits the comparison, apart from the inputs and the alignment."""
    notes = [*_vocabulary(a, b), *_sampling(a, b), *_dtypes(a, b)]
    if a.folder.resolve() == b.folder.resolve():
        notes.append(Note("warn", "both are the same run"))
    for run in (a, b):
        notes += [Note("warn", f"{run.name}: {problem}") for problem in run.problems]
    return tuple(notes)


def few_folds(folds: Iterable[int]) -> tuple[Note, ...]:
    """Return the note for sites with too few non-empty folds for a floor."""
    listed = list(folds)
    short = [n for n in listed if n < LEAST_FOLDS]
    if not short:
        return ()
    text = (
        f"{len(short)} of {len(listed)} sites have fewer than {LEAST_FOLDS} non-empty folds "
        f"(fewest: {min(short)}): their noise floor is unavailable and their status at most "
        "WARN, unless values are not finite. Record more batches."
    )
    return (Note("warn", text),)


def _hashes(run: Run) -> tuple[str, ...]:
    found = [str(fold.get("hash", "")) for fold in run.manifest.folds]
    return tuple((found + [""] * 16)[:16])


def _vocabulary(a: Run, b: Run) -> list[Note]:
    one, other = _stated(a.manifest.model), _stated(b.manifest.model)
    for key in _TOKENIZER_KEYS:
        if key in one and key in other and one[key] != other[key]:
            text = (
                f"the models read other tokens ({key}: {one[key]} and {other[key]}): equal "
                "text is not equal input, so a difference need not come from the blocks"
            )
            return [Note("refuse" if key != "vocab_size" else "warn", text)]
    return []


def _stated(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what the description says of the tokens, also inside `config`."""
    config = model.get("config")
    merged = {**(config if isinstance(config, Mapping) else {}), **model}
    return {key: str(merged[key]) for key in _TOKENIZER_KEYS if merged.get(key) is not None}


def _sampling(a: Run, b: Run) -> list[Note]:
    one, other = a.manifest.sampling, b.manifest.sampling
    unlike = [key for key in _SAMPLING_KEYS if one.get(key) != other.get(key)]
    if not unlike:
        return []
    listed = ", ".join(f"{key} {one.get(key)} and {other.get(key)}" for key in unlike)
    return [Note("warn", f"the runs were sampled differently ({listed})")]


def _dtypes(a: Run, b: Run) -> list[Note]:
    one, other = (str(run.manifest.model.get("dtype", "")) for run in (a, b))
    if one == other or not one or not other:
        return []
    text = f"the models have other dtypes ({one} and {other}): rounding is part of the change"
    return [Note("warn", text)]

"""Align the sites of two runs: by layer, then block, then role and expert.

Names may differ between models, so layers are met by their ordinal, or by relative depth
when the numbers of layers differ. Blocks of one layer are met by name, then by kind, then
in order. A mixture of experts meets a dense block with its experts pooled.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffn_probe.anatomy import ROLES, Block, Site
from ffn_probe.compare.validity import Note
from ffn_probe.errors import CompareError, UnknownName
from ffn_probe.runs import Run

Mapped = Mapping[str, str] | str | os.PathLike[str]

_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True, slots=True)
class Pair:
    """Sites of the reference and of the candidate that are compared; several are pooled."""

    a: tuple[Site, ...]
    b: tuple[Site, ...]

    @property
    def where(self) -> tuple[int, str, int, str, str]:
        """Layer, role, expert (-1 when pooled), and the two block names."""
        one, other = self.a[0], self.b[0]
        expert = one.expert if len(self.a) == len(self.b) == 1 else -1
        return one.layer, one.role, min(expert, other.expert), one.block, other.block


@dataclass(frozen=True, slots=True)
class Alignment:
    """The pairs in the order of depth and data flow, what was left over, and notes."""

    pairs: tuple[Pair, ...]
    only_a: tuple[Site, ...]
    only_b: tuple[Site, ...]
    notes: tuple[Note, ...]


def align(a: Run, b: Run, mapping: Mapped | None = None) -> Alignment:
    """Return which sites of `a` and `b` are compared.

    Raises:
        CompareError: nothing is in common, or the mapping cannot be read.
        UnknownName: the mapping names a block that a run does not have.
    """
    sites_a, sites_b = _by_block(a.sites), _by_block(b.sites)
    if not sites_a or not sites_b:
        empty = a if not sites_a else b
        raise CompareError(f"{empty.name} holds no data: nothing was recorded at any site")
    blocks, notes = _matched_blocks(a, b, sites_a, sites_b, read_mapping(mapping))
    pairs: list[Pair] = []
    pooled: list[str] = []
    for one, other in blocks:
        found = _matched_sites(sites_a[one], sites_b[other])
        pairs += found
        if any(len(p.a) != len(p.b) for p in found):
            pooled.append(one)
    if not pairs:
        raise CompareError(
            f"{a.name} and {b.name} have no site in common; the roles are "
            f"{_roles(a.sites)} and {_roles(b.sites)}. Give mapping={{block in a: block in b}}."
        )
    if pooled:
        notes.append(
            Note(
                "warn",
                f"{len(pooled)} blocks are a mixture of experts on one side only (first: "
                f"{pooled[0]}): the experts are pooled to meet the dense block",
            )
        )
    order = {role: i for i, role in enumerate(ROLES)}
    pairs.sort(key=lambda p: (p.a[0].layer, p.a[0].block, order.get(p.a[0].role, 99), p.where))
    used_a = {p.a[0] for p in pairs if len(p.a) == 1}
    used_b = {p.b[0] for p in pairs if len(p.b) == 1}
    return Alignment(
        tuple(pairs),
        tuple(site for site in a.sites if site not in used_a),
        tuple(site for site in b.sites if site not in used_b),
        tuple(notes),
    )


def read_mapping(mapping: Mapped | None) -> dict[str, str]:
    """Return block name in a -> block name in b; empty without a mapping.

    Raises:
        CompareError: the file cannot be read, or does not map names to names.
    """
    if mapping is None:
        return {}
    given: object = mapping
    if not isinstance(mapping, Mapping):
        try:
            given = json.loads(Path(mapping).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CompareError(f"cannot read the mapping {mapping}: {error}") from error
    if not isinstance(given, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in given.items()
    ):
        raise CompareError('a mapping is {"block name in a": "block name in b", ...}')
    return dict(given)


# ---- blocks -----------------------------------------------------------------------------


def _by_block(sites: Iterable[Site]) -> dict[str, list[Site]]:
    found: dict[str, list[Site]] = {}
    for site in sites:
        found.setdefault(site.block, []).append(site)
    return found


def _matched_blocks(
    a: Run,
    b: Run,
    sites_a: Mapping[str, Sequence[Site]],
    sites_b: Mapping[str, Sequence[Site]],
    mapping: Mapping[str, str],
) -> tuple[list[tuple[str, str]], list[Note]]:
    for name, known, run in (
        *((one, sites_a, a) for one in mapping),
        *((other, sites_b, b) for other in mapping.values()),
    ):
        if name not in known:
            raise UnknownName.of("block", name, known, f"(mapping, run {run.name})")
    if len(set(mapping.values())) < len(mapping):
        raise CompareError("the mapping gives one block of the candidate to several blocks")
    rest_a = _layers({n: s for n, s in sites_a.items() if n not in mapping})
    rest_b = _layers({n: s for n, s in sites_b.items() if n not in mapping.values()})
    pairs = list(mapping.items())
    layers, notes = _matched_layers(a, b, tuple(rest_a), tuple(rest_b))
    kinds = [{block.name: block for block in run.blocks} for run in (a, b)]
    for one, other in layers:
        pairs += _matched_names(rest_a[one], rest_b[other], kinds[0], kinds[1])
    notes += _kind_notes(pairs, kinds[0], kinds[1])
    return pairs, notes


def _layers(sites: Mapping[str, Sequence[Site]]) -> dict[int, list[str]]:
    """Return layer -> its blocks, ascending."""
    found: dict[int, list[str]] = {}
    for name, listed in sites.items():
        found.setdefault(listed[0].layer, []).append(name)
    return {layer: found[layer] for layer in sorted(found)}


def _matched_layers(
    a: Run, b: Run, layers_a: tuple[int, ...], layers_b: tuple[int, ...]
) -> tuple[list[tuple[int, int]], list[Note]]:
    """Return pairs of layers, one to one, ascending."""
    if layers_a == layers_b or not layers_a or not layers_b:
        return list(zip(layers_a, layers_b, strict=False)), []
    if _depth(a) is not None and _depth(a) == _depth(b):
        # Models of equal depth, of which not every layer was recorded in both.
        common = sorted(set(layers_a) & set(layers_b))
        text = f"{len(common)} layers were recorded in both runs; the others are left out"
        return [(layer, layer) for layer in common], [Note("warn", text)]
    if len(layers_a) == len(layers_b):
        text = "the layers are numbered differently; they are compared in order"
        return list(zip(layers_a, layers_b, strict=True)), [Note("warn", text)]
    short, long = sorted((layers_a, layers_b), key=len)
    step = (len(long) - 1) / (len(short) - 1) if len(short) > 1 else 0.0
    pairs = [(short[i], long[int(i * step + 0.5)]) for i in range(len(short))]
    if short is not layers_a:
        pairs = [(one, other) for other, one in pairs]
    text = (
        f"the runs have {len(layers_a)} and {len(layers_b)} layers; they are compared at equal "
        "relative depth, and the layers in between are listed as found in one run only"
    )
    return pairs, [Note("warn", text)]


def _depth(run: Run) -> int | None:
    """Return the number of layers the model's description states."""
    places = [run.manifest.model, run.manifest.model.get("config")]
    for place in places:
        for key in _LAYER_KEYS:
            if isinstance(place, Mapping) and isinstance(place.get(key), int):
                return int(place[key])
    return None


def _matched_names(
    names_a: Sequence[str],
    names_b: Sequence[str],
    blocks_a: Mapping[str, Block],
    blocks_b: Mapping[str, Block],
) -> list[tuple[str, str]]:
    """Return pairs of blocks of one layer: the same name, else the same kind, else in order."""
    pairs = [(name, name) for name in names_a if name in names_b]
    left = [name for name in names_a if name not in names_b]
    right = [name for name in names_b if name not in names_a]
    for same in (True, False):
        for one in list(left):
            for other in right:
                if not same or _kind(blocks_a.get(one)) == _kind(blocks_b.get(other)):
                    pairs.append((one, other))
                    left.remove(one)
                    right.remove(other)
                    break
    return pairs


def _kind(block: Block | None) -> tuple[str, bool]:
    return ("", False) if block is None else (block.kind, block.experts > 0)


def _kind_notes(
    pairs: Sequence[tuple[str, str]],
    blocks_a: Mapping[str, Block],
    blocks_b: Mapping[str, Block],
) -> list[Note]:
    mixed = [
        (one, other)
        for one, other in pairs
        if one in blocks_a and other in blocks_b and blocks_a[one].kind != blocks_b[other].kind
    ]
    if not mixed:
        return []
    one, other = mixed[0]
    text = (
        f"{len(mixed)} blocks are {blocks_a[one].kind} in one run and "
        f"{blocks_b[other].kind} in the other: `gate` is the pre-activation of both, "
        "`gate_act` and `value` have no counterpart"
    )
    return [Note("warn", text)]


# ---- sites of a block -------------------------------------------------------------------


def _matched_sites(sites_a: Sequence[Site], sites_b: Sequence[Site]) -> list[Pair]:
    """Return the pairs of two blocks: by role, then by expert."""
    roles_a, roles_b = _by_role(sites_a), _by_role(sites_b)
    pairs: list[Pair] = []
    for role, experts_a in roles_a.items():
        experts_b = roles_b.get(role, {})
        common = [expert for expert in experts_a if expert in experts_b]
        pairs += [Pair((experts_a[e],), (experts_b[e],)) for e in common]
        if not common and experts_b and (-1 in experts_a or -1 in experts_b):
            pairs.append(Pair(tuple(experts_a.values()), tuple(experts_b.values())))
    return pairs


def _by_role(sites: Sequence[Site]) -> dict[str, dict[int, Site]]:
    found: dict[str, dict[int, Site]] = {}
    for site in sites:
        found.setdefault(site.role, {})[site.expert] = site
    return found


def _roles(sites: Iterable[Site]) -> str:
    return ", ".join(sorted({site.role for site in sites}))

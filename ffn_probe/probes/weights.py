"""What is kept of the weights of the watched blocks, read once when a probe is attached."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.matrices import read_matrix
from ffn_probe.errors import ModelError
from ffn_probe.runs import WHOLE

_AT_ONCE = 1 << 22
"""Numbers that are taken to float32 at once."""

_MOST_EXPERTS = 1024
"""Of a model with more experts in all, the weights of experts are left out: gigabytes."""

_BIASES = frozenset({"bias", "beta", "b"})
_NONE = np.zeros(0, np.float32)


def weight_rows(
    model: nn.Module, blocks: Sequence[Block], experts: Collection[int] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of the table of weights, and a note on what is not among them.

    The model is only read: nothing of it runs, and nothing changes. `experts` are those that
    are watched, None for all.
    """
    wanted = [(block, expert) for block in blocks for expert in _experts(block, experts)]
    crowd = sum(expert >= 0 for _, expert in wanted)
    notes: list[str] = []
    if crowd > _MOST_EXPERTS:
        wanted = [(block, expert) for block, expert in wanted if expert < 0]
        notes.append(
            f"the directions and norms of {crowd} experts' weights were not kept; experts= "
            f"chooses up to {_MOST_EXPERTS}"
        )
    rows: list[dict[str, Any]] = []
    unread: dict[str, str] = {}
    with torch.no_grad():
        for block, expert in wanted:
            try:
                rows.append(_keys(block, expert) | _geometry(model, block, expert))
            except Exception as error:  # sharded, offloaded, of another making, ...
                said = str(error) if isinstance(error, ModelError) else repr(error)
                unread.setdefault(block.name, said)
    if unread:
        name, reason = next(iter(unread.items()))
        where = f"{len(unread)} blocks (first: {name})" if len(unread) > 1 else name
        notes.append(
            f"the weights of {where} could not be read, so their directions and norms are not "
            f"in the run: {reason[:200]}"
        )
    return rows, notes


def _experts(block: Block, wanted: Collection[int] | None) -> Iterable[int]:
    if not block.experts:
        return (-1,)
    return (e for e in range(block.experts) if wanted is None or e in wanted)


def _keys(block: Block, expert: int) -> dict[str, Any]:
    return {
        "window": 0, "fold": WHOLE, "layer": block.layer, "block": block.name,
        "role": "hidden", "expert": expert, "dp": 0, "tp": 0, "pp": 0, "ep": 0,
    }  # fmt: skip


def _geometry(model: nn.Module, block: Block, expert: int) -> dict[str, np.ndarray]:
    up, down = (
        read_matrix(model, block, name, expert=max(expert, 0), stored=True).weight
        for name in ("up", "down")
    )
    norm_up, in_up = _norms(up)
    out_down, norm_down = _norms(down)
    cosine = norm_gate = in_gate = _NONE
    if block.kind == "glu":
        gate = read_matrix(model, block, "gate", expert=max(expert, 0), stored=True).weight
        norm_gate, in_gate = _norms(gate)
        cosine = _cosines(gate, up, norm_gate, norm_up)
    return {
        "cos_gate_up": cosine, "norm_gate": norm_gate, "norm_up": norm_up,
        "norm_down": norm_down, "in_gate": in_gate, "in_up": in_up, "out_down": out_down,
        "gain": _gain(model, block),
    }  # fmt: skip


def _norms(weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the norms of the rows and of the columns."""
    squares = torch.zeros(weight.shape[1], device=weight.device)
    rows = []
    for part in torch.split(weight, _rows(weight)):
        square = part.float() ** 2
        rows.append(square.sum(1))
        squares += square.sum(0)
    return _host(torch.cat(rows).sqrt()), _host(squares.sqrt())


def _rows(weight: Tensor) -> int:
    return max(1, _AT_ONCE // weight.shape[1])


def _cosines(
    gate: Tensor, up: Tensor, norm_gate: np.ndarray, norm_up: np.ndarray
) -> np.ndarray:
    few = _rows(up)
    pairs = zip(torch.split(gate, few), torch.split(up, few), strict=True)
    dots = _host(torch.cat([(g.float() * u.float()).sum(1) for g, u in pairs]))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = dots / (norm_gate * norm_up)
    return np.asarray(np.clip(cosine, -1, 1))


def _gain(model: nn.Module, block: Block) -> np.ndarray:
    gain = gain_of(model, block)
    return _NONE if gain is None else _host(gain)


def gain_of(model: nn.Module, block: Block) -> Tensor | None:
    """Return by what the norm before the block multiplies each channel; None without."""
    norm = block.norm
    if norm.gain is None or norm.module is None:
        return None
    owner = dict(model.named_modules(remove_duplicate=False)).get(norm.module)
    vectors = [] if owner is None else list(owner.named_parameters())
    for name, vector in vectors:
        if vector.numel() == block.d_model and name.rsplit(".", 1)[-1] not in _BIASES:
            gain: Tensor = vector.detach().reshape(-1).float() + (norm.gain == "1+w")
            return gain
    return None


def _host(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().float().numpy())

"""Rotate the hidden tensor by a Hadamard matrix, and fold the way back into down.

A rotation spreads outliers over all channels. Without signs it has a trap: where the channels
have a mean of one sign (after ReLU^2, GELU, or an aligned SwiGLU) their sum goes into one
coefficient. Signs drawn at random before the rotation take the sum apart.
"""

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ffn_probe.anatomy import Block, Tap
from ffn_probe.errors import SwapError
from ffn_probe.swaps.copies import own_copies
from ffn_probe.swaps.interpose import interpose, writers
from ffn_probe.swaps.weights import read_matrix


def hadamard(channels: int, *, seed: int | None = None) -> Float[Tensor, "channels channels"]:
    """Return an orthonormal matrix of Hadamard blocks as large as the channels allow (float64).

    The blocks have the size of the largest power of two that divides `channels` (Sylvester
    1867). With a seed each column has a sign of its own, drawn from it.

    >>> hadamard(2).mul(2**0.5).round().tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    if channels < 1:
        raise SwapError(f"a rotation needs at least one channel, not {channels}")
    size = channels & -channels
    block = torch.ones(1, 1, dtype=torch.float64)
    while len(block) < size:
        block = torch.cat([torch.cat([block, block], 1), torch.cat([block, -block], 1)])
    matrix: Tensor = torch.block_diag(*[block / size**0.5] * (channels // size))  # type: ignore[no-untyped-call]
    if seed is None:
        return matrix
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (channels,), generator=generator, dtype=torch.float64) * 2 - 1
    signed: Tensor = matrix * signs
    return signed


def rotate_hidden(
    model: nn.Module, block: Block, stack: ExitStack, *, seed: int | None = 0
) -> Float[Tensor, "d_ff d_ff"]:
    """Rotate what enters the down projection and turn down back, until `stack` is closed.

    The block's output stays, up to rounding. Whatever is put in at `hidden` later (a fake
    quantization) sees the rotated tensor.

    Args:
        model: the model of the block.
        block: what discovery found.
        stack: undoes it.
        seed: of the signs; None: no signs, the trap included.

    Raises:
        SwapError: down is shared or no view of one parameter. Nothing was changed.
    """
    turn = hadamard(block.d_ff, seed=seed)

    def turned(block: Block, tap: Tap, hidden: Tensor) -> Tensor:
        del block, tap
        return hidden @ turn.T.to(hidden.device, hidden.dtype)

    with ExitStack() as undo:
        own_copies(model, block, ("down",), undo)
        with torch.no_grad():
            for expert in range(max(block.experts, 1)):
                weight = read_matrix(model, block, "down", expert=expert).weight
                weight.copy_(weight.double() @ turn.T.to(weight.device))
        interpose(model, writers(block, "hidden"), turned, undo)
        stack.push(undo.pop_all())
    return turn

"""WeightWatch: single numbers of the blocks' weights, every so many windows of a training.

They are read at the end of a window, off the path of the model, and copied to the host at
once. The spectral norms come from power iteration from a fixed vector, which goes on from
where it was the last time: no random number is drawn.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from ffn_probe.anatomy import Block
from ffn_probe.discover.matrices import read_matrix
from ffn_probe.errors import ModelError
from ffn_probe.probes.weights import gain_of
from ffn_probe.vigil.sentinel import WEIGHTS

_ITERATIONS = 24  # for the first reading of a matrix; the next go on from its vector
_AGAIN = 6
_MOST_EXPERTS = 16  # of a mixture that are read, spread over all

Metric = tuple[int, str, float]


class WeightWatch:
    """The weights of some blocks, on a schedule.

    Per block, as metrics `weights/BLOCK/NAME`: `cos_mean`, `cos_max` and `cos_aligned` (of
    |cos(w_gate, w_up)| over the neurons of a GLU: mean, largest, and the share beyond
    5 / sqrt(d_model)), `gain_max` and `gain_spread` (of the norm before the block: the largest
    |gain|, and that over the median one), `spectral_gate`, `spectral_up`, `spectral_down` (the
    largest singular values). Of a mixture, the largest over up to 16 experts.

    Args:
        model: the model, which is only read.
        blocks: the blocks that are watched.
        experts: those that are watched; None for all.
        every: windows from one reading to the next; 0 for never.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        experts: Collection[int] | None,
        *,
        every: int,
    ) -> None:
        self.every = every
        self.notes: dict[str, None] = {}
        self._model = model
        self._blocks = list(blocks)
        self._experts = experts
        self._vectors: dict[tuple[str, str, int], Tensor] = {}

    def metrics(self, window: int, step: int) -> list[Metric]:
        """Return the numbers as of now, when this window is one to read them at."""
        if not self.every or window % self.every:
            return []
        names: list[str] = []
        values: list[Tensor] = []
        with torch.no_grad():
            for block in tuple(self._blocks):
                try:
                    found = self._of_block(block)
                except Exception as error:  # sharded, offloaded, packed, ...
                    self._give_up(block, error)
                    continue
                names += [f"{WEIGHTS}/{block.name}/{name}" for name in found]
                values += [value.float().cpu() for value in found.values()]
        return [(step, name, float(v)) for name, v in zip(names, values, strict=True)]

    def _give_up(self, block: Block, error: Exception) -> None:
        self._blocks.remove(block)
        said = str(error) if isinstance(error, ModelError) else repr(error)
        note = f"the weights of {block.name} are not followed: {said}"
        self.notes[note[:300]] = None

    def _of_block(self, block: Block) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for expert in self._read_experts(block):
            for name, value in self._of_expert(block, expert).items():
                found[name] = torch.maximum(found[name], value) if name in found else value
        gain = gain_of(self._model, block)
        if gain is not None:
            size = gain.abs().float()
            found["gain_max"] = size.max()
            found["gain_spread"] = size.max() / size.median()
        return found

    def _read_experts(self, block: Block) -> Iterable[int]:
        if not block.experts:
            return (0,)
        chosen = [
            e for e in range(block.experts) if self._experts is None or e in self._experts
        ]
        return chosen[:: max(1, -(-len(chosen) // _MOST_EXPERTS))]

    def _of_expert(self, block: Block, expert: int) -> dict[str, Tensor]:
        names = ("gate", "up", "down") if block.kind == "glu" else ("up", "down")
        read = {
            name: read_matrix(self._model, block, name, expert=expert, stored=True).weight
            for name in names
        }
        found = {
            f"spectral_{name}": self._spectral((block.name, name, expert), weight.detach())
            for name, weight in read.items()
        }
        if block.kind == "glu":
            gate, up = (read[name].detach().float() for name in ("gate", "up"))
            cosine = nn.functional.cosine_similarity(gate, up, dim=1, eps=1e-30).abs()
            found["cos_mean"], found["cos_max"] = cosine.mean(), cosine.max()
            found["cos_aligned"] = (cosine > 5 / block.d_model**0.5).float().mean()
        return found

    def _spectral(self, key: tuple[str, str, int], weight: Tensor) -> Tensor:
        """Return the largest singular value, from below: it grows with the iterations."""
        matrix = weight.float()
        known = self._vectors.get(key)
        vector = known if known is not None else _start(matrix)
        for _ in range(_AGAIN if known is not None else _ITERATIONS):
            vector = nn.functional.normalize(matrix.t() @ (matrix @ vector), dim=0)
        self._vectors[key] = vector
        largest: Tensor = torch.linalg.vector_norm(matrix @ vector)
        return largest


def _start(matrix: Tensor) -> Tensor:
    """Return a fixed vector that stands at right angles to nothing in particular."""
    index = torch.arange(matrix.shape[1], device=matrix.device, dtype=torch.float32)
    return nn.functional.normalize(torch.cos(index * index + 0.5), dim=0)

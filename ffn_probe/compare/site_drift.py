"""SiteDrift: everything that changed at one site."""

from collections.abc import Sequence
from dataclasses import dataclass

from ffn_probe.compare.change import Change, Status
from ffn_probe.compare.words import in_words


@dataclass(frozen=True, slots=True)
class SiteDrift:
    """The changes of one site of the reference against its counterpart.

    `layer` is the reference's. `expert` is -1 for a dense site, and where the experts of
    one side were pooled to meet a dense one. `headline` is the worst change in words.
    """

    layer: int
    role: str
    expert: int
    block_a: str
    block_b: str
    changes: tuple[Change, ...]
    status: Status
    headline: str

    @property
    def name(self) -> str:
        """The reference's name of the site, "block/role" with "#3" for expert 3."""
        return f"{self.block_a}/{self.role}" + (f"#{self.expert}" if self.expert >= 0 else "")

    @property
    def worst(self) -> Change:
        """The change with the worst status and, among these, most over its threshold."""
        return max(self.changes, key=lambda change: change.severity)

    @classmethod
    def of(
        cls, where: tuple[int, str, int, str, str], changes: Sequence[Change]
    ) -> "SiteDrift":
        """Return the drift of (layer, role, expert, block in a, block in b)."""
        worst = max(changes, key=lambda change: change.severity)
        return cls(*where, tuple(changes), worst.status, in_words(worst))

"""What a swap did: what was changed where, what was left and why, how near it came."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was changed: `part` is norm, activation, gating, dtype, quantize.

    `block` is the FFN it belongs to ("": none, or several), `path` the module or parameter.
    `sqnr_db` is the achieved error in dB where it was measured, else None: of a refitted norm's
    or hidden tensor on the calibration batches, of the model's output where scales were folded.
    """

    part: str
    block: str
    path: str
    before: str
    after: str
    note: str = ""
    sqnr_db: float | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What a swap was asked to change and did not, and why."""

    part: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Swapped:
    """The outcome of a swap.

    `text` is the swap in one line. `error` holds the errors of the model's output where an
    exact conversion measured them on the example, by name (`max_abs`, `sqnr_db`).
    """

    text: str
    changed: tuple[Change, ...] = ()
    left: tuple[Left, ...] = ()
    error: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst_sqnr_db(self) -> float | None:
        """The smallest measured SQNR of a change in dB, None where none was measured."""
        return min((c.sqnr_db for c in self.changed if c.sqnr_db is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Swapped":
        """Return the value that `to_dict` came from."""
        return cls(
            text=str(data["text"]),
            changed=tuple(Change(**c) for c in data["changed"]),
            left=tuple(Left(**item) for item in data["left"]),
            error=dict(data["error"]),
        )

    def __str__(self) -> str:
        """Return one line for each change and each thing left."""
        lines = [self.text]
        for change in self.changed:
            db = "" if change.sqnr_db is None else f", {change.sqnr_db:.1f} dB"
            note = f" ({change.note})" if change.note else ""
            where = change.path or change.block
            lines.append(
                f"  {change.part} {where}: {change.before} -> {change.after}{note}{db}"
            )
        lines += [f"  left {item.path}: {item.why}" for item in self.left]
        return "\n".join(lines)

"""Sighting: an alarm, and what is known of when it happened; which of several came first."""

from collections.abc import Iterable
from dataclasses import dataclass

from ffn_probe.alarms import Alarm
from ffn_probe.anatomy import GRAD, ROLES

_AFTER_FORWARD, _AFTER_BACKWARD = 1, 3


@dataclass(frozen=True, slots=True)
class Sighting:
    """An alarm that happened between two steps, both included.

    `layer` and `role` are those of a site, -1 and "" of a metric. `token` says at which token
    of which sequence, where that is known.
    """

    alarm: Alarm
    first_step: int
    last_step: int
    layer: int = -1
    role: str = ""
    token: str = ""

    @property
    def exact(self) -> bool:
        """Whether the step is known, and not only a stretch of steps."""
        return self.first_step == self.last_step

    @property
    def when(self) -> str:
        """The step or steps, in words."""
        if self.exact:
            return f"step {self.last_step}"
        return f"steps {self.first_step}..{self.last_step}"

    @property
    def title(self) -> str:
        """What and where: `growth at layers.3/hidden`."""
        return f"{self.alarm.kind} at {self.alarm.where}"

    def __str__(self) -> str:
        token = f" ({self.token})" if self.token else ""
        return f"{self.when}: {self.title}{token}: {self.alarm.text}"

    @property
    def flow(self) -> tuple[int, int, int]:
        """Its place within a step: forward by depth, loss, backward by depth, the rest."""
        if not self.role:
            return (_AFTER_FORWARD if self.alarm.where == "loss" else _AFTER_BACKWARD, 0, 0)
        order = ROLES.index(self.role.removeprefix(GRAD))
        if self.role.startswith(GRAD):
            return (2, -self.layer, -order)
        return (0, self.layer, order)


def first_mover(sightings: Iterable[Sighting]) -> str:
    """Return which kind of alarm came first and by how many steps, or that it cannot be told.

    Of each kind (sites and metrics apart) the first counts. Of several at one known step the
    place in the step decides. Where the stretches of two overlap, what was sampled is too
    coarse: "order undetermined". Where the loss moved too, the lead over it is told.
    """
    kinds: dict[tuple[str, bool], Sighting] = {}
    for sighting in sorted(sightings, key=lambda s: (s.last_step, s.first_step, s.flow)):
        kinds.setdefault((sighting.alarm.kind, bool(sighting.role)), sighting)
    if not kinds:
        return "nothing moved"
    first, *rest = kinds.values()
    name = f"{first.title} ({first.when})"
    if not rest:
        return f"{name} alone moved"
    doubtful = [other for other in rest if not _before(first, other)]
    if doubtful:
        others = f" and {len(doubtful) - 1} more" if len(doubtful) > 1 else ""
        return (
            f"order undetermined: {name} and {doubtful[0].title} ({doubtful[0].when}){others}; "
            "what was sampled is too coarse"
        )
    loss = next((other for other in rest[1:] if other.alarm.where == "loss"), None)
    told = [_lead(first, other) for other in (rest[0], loss) if other is not None]
    return f"{name} moved first, {', '.join(told)}"


def _lead(first: Sighting, other: Sighting) -> str:
    least, most = other.first_step - first.last_step, other.last_step - first.first_step
    if most == 0:
        return f"earlier in the same step than {other.title}"
    lead = f"{least} steps" if least == most else f"{least} to {most} steps"
    return f"{lead} before {other.title} ({other.when})"


def _before(first: Sighting, other: Sighting) -> bool:
    if first.last_step < other.first_step:
        return True
    same = first.exact and other.exact and first.last_step == other.last_step
    return same and first.flow < other.flow

"""What a recording has to say of itself: taps and gradients that did not come, rare experts."""

from collections.abc import Collection, Iterable, Sequence

from ffn_probe.anatomy import GRAD, ROLES, Block
from ffn_probe.probes.watched import Watched
from ffn_probe.runs import Run

_FEW_TOKENS = 64

Fired = Collection[tuple[str, str]]
"""(block, role) of every tap that ever fired."""


def missed_calls(watched: Iterable[Watched], window: int) -> list[str]:
    """Return a note on every role that fired less often in this window than its block ran."""
    notes = []
    for item in watched:
        fired = item.fired
        most = max(fired.values(), default=0)
        for role in item.block.roles if fired else ():
            missed = most - fired.get(role, 0)
            # In a mixture the experts run as often as the router likes.
            if missed and (role not in fired or not item.block.experts):
                notes.append(
                    f"{item.block.name}: the tap of {role!r} missed {missed} of {most} "
                    f"calls in window {window}"
                )
    return notes


def silent_taps(
    blocks: Iterable[Block], ever: Fired, roles: Collection[str] | None
) -> list[str]:
    """Return the wanted taps that never fired although their block ran."""
    ran = {name for name, _ in ever}
    return [
        f"{block.name}/{role}"
        for block in blocks
        for role in block.roles
        if block.name in ran
        and (roles is None or role in roles)
        and (block.name, role) not in ever
    ]


def silent_blocks(blocks: Iterable[Block], ever: Fired) -> list[str]:
    """Return a note on the blocks that never ran."""
    silent = [b.name for b in blocks if not any((b.name, r) in ever for r in ROLES)]
    return [f"{len(silent)} blocks never ran (first: {silent[0]})"] if silent else []


def unreached(
    blocks: Iterable[Block], ever: Fired, seen: Fired, roles: Collection[str] | None
) -> list[str]:
    """Return a note on the sites at which no gradient was seen although values were.

    Args:
        blocks: the blocks that are watched.
        ever: of the taps that fired.
        seen: of the sites with statistics, gradients among them.
        roles: those that are wanted; None for all.
    """
    wanted = [
        (block.name, role)
        for block in blocks
        for role in block.roles
        if (block.name, role) in ever and (roles is None or role in roles)
    ]
    missing = [(name, role) for name, role in wanted if (name, GRAD + role) not in seen]
    if not missing:
        return []
    if len(missing) == len(wanted):
        note = (
            "no gradient was seen at any site: no backward ran while the probe was on, or all "
            "is frozen or runs under no_grad"
        )
        return [note]
    first = f"{missing[0][0]}/{missing[0][1]}"
    note = (
        f"no gradient was seen at {len(missing)} of {len(wanted)} sites (first: {first}): "
        "nothing before them is trained (frozen), or they run under no_grad"
    )
    return [note]


def rare_experts(run: Run, blocks: Sequence[Block]) -> list[str]:
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

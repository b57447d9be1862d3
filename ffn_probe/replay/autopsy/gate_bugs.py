"""Bugs between the projections: the activation, what it is applied to, clamps and offsets."""

from collections.abc import Iterator

from ffn_probe.replay.autopsy.bugs import Bug, Case
from ffn_probe.replay.autopsy.gating import PLAIN, Gating, gating_of, regated
from ffn_probe.replay.parts import Parts
from ffn_probe.zoo.fingerprint import Match

_HUGGING_FACE = {"gelu_tanh": "gelu_pytorch_tanh"}
_LIKELY = ("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "sigmoid")
_LIMITS = (7.0, 10.0)


def gate_bugs(case: Case) -> Iterator[Bug]:
    """Yield every bug in how hidden is made of gate and value in a block like this one."""
    gating = gating_of(case.parts)
    if gating is None or gating.whole:
        return
    yield from _activations(case, gating)
    yield from _applications(case, gating)
    if case.parts.value is not None:
        yield from _paths(gating)
        yield from _clamps(case, gating)
    yield _bug(
        "cast order", "gate", "compute the activation in the model's dtype", "cast",
        "the product in float32", 4, benign=True, wide=not gating.wide,
    )  # fmt: skip


def _bug(
    name: str, role: str, fix: str, slot: str, variant: str = "", rank: int = 1,
    *, benign: bool = False, **changes: object,
) -> Bug:  # fmt: skip
    return Bug(
        name, role, lambda parts: regated(parts, **changes), fix, variant, slot, rank, benign
    )


def config_name(name: str) -> str:
    """Return what a configuration calls an activation of the zoo."""
    return _HUGGING_FACE.get(name, name)


def _activations(case: Case, gating: Gating) -> Iterator[Bug]:
    right = gating.act
    line = case.config.get("activation", "")
    told = _told(right)
    fix = (
        f'{line} = "{config_name(right.name)}"' if line else f"use {told} in {case.block.name}"
    )
    if right.name != "identity":
        yield _bug(
            "activation missing", "hidden", fix, "activation", rank=0,
            act=Match("identity", 0.0),
        )  # fmt: skip
    for match in PLAIN:
        if match.name not in {right.name, "identity"}:
            yield _bug(
                f"activation: {match.name} instead of {told}", "hidden", fix, "activation",
                rank=1 if match.name in _LIKELY else 3, act=match,
            )  # fmt: skip
    if right.name != "swish_beta":
        return
    for beta in (1.0, 1.702):
        if abs(beta - right.params["beta"]) > 1e-4:
            yield _bug(
                f"beta {beta:g} instead of {right.params['beta']:g}", "hidden",
                f"x * sigmoid({right.params['beta']:g} x)", "activation", rank=1,
                act=Match("swish_beta", 0.0, {"beta": beta}),
            )  # fmt: skip


def _told(match: Match) -> str:
    if match.name == "swish_beta":
        return f"x sigmoid({match.params['beta']:g} x)"
    return match.name


def _applications(case: Case, gating: Gating) -> Iterator[Bug]:
    if gating.act.name == "identity":
        return
    yield _bug(
        "activation applied twice", "hidden",
        f"apply {_told(gating.act)} once in {case.block.name}", "application", times=2,
    )  # fmt: skip


def _paths(gating: Gating) -> Iterator[Bug]:
    told = _told(gating.act)
    right = f"hidden = {told}(gate) * up"
    yield _bug("value path dropped", "hidden", right, "path", drop="value")
    yield _bug("gate path dropped", "hidden", right, "path", drop="gate")
    if gating.act.name != "identity":
        yield Bug(
            "activation on the value branch", "hidden", _crossed, right, slot="path", rank=2
        )
        yield _bug("activation on both branches", "hidden", right, "path", on="both")
        yield _bug("activation on the product", "hidden", right, "path", on="product")
    yield _bug("gate and value added", "hidden", right, "path", on="sum")
    if gating.offset:
        yield _bug("up + 1 missing", "hidden", f"{right} with up + 1", "offset", offset=0.0)
    else:
        yield _bug("up + 1 added", "hidden", f"{right} without + 1", "offset", offset=1.0)


def _crossed(parts: Parts) -> Parts | None:
    """Return the block whose activation is on the value: gate and value change places."""
    if parts.value is None:
        return None
    return parts.with_(gate=parts.value, value=parts.gate)


def _clamps(case: Case, gating: Gating) -> Iterator[Bug]:
    where = case.block.name
    if gating.limit is None:
        for limit in _LIMITS:
            yield _bug(
                f"clamp at {limit:g} added", "hidden", f"do not clamp in {where}",
                "clamp", rank=2, limit=limit,
            )  # fmt: skip
        return
    line = case.config.get("limit", f"clamp gate and value in {where}, limit")
    fix = f"{line} = {gating.limit:g}"
    yield _bug("clamp missing", "hidden", fix, "clamp", limit=None)
    place = "before" if gating.after else "after"
    told = {"before": "after", "after": "before"}[place]
    yield _bug(
        f"clamp {place} the activation", "hidden", f"clamp the gate {told} the activation",
        "clamp", after=not gating.after,
    )  # fmt: skip
    for limit in _LIMITS:
        if limit != gating.limit:
            yield _bug(
                f"clamp at {limit:g} instead of {gating.limit:g}", "hidden", fix, "clamp",
                limit=limit,
            )  # fmt: skip

"""What differs, when no bug with a name explains it: whose own numbers do."""

from collections.abc import Callable, Mapping

from ffn_probe.replay.autopsy.bugs import Bug, Case, Change
from ffn_probe.replay.autopsy.layout_bugs import matrix, remade, told
from ffn_probe.swaps.weights import Matrix


def weights(case: Case) -> tuple[Bug, ...]:
    """Return the bugs of other numbers in one matrix, and in all, as the candidate has them."""
    own = {
        name: m
        for name, m in case.matrices.items()
        if (healthy := matrix(case.parts, name)) is not None
        and healthy.weight.shape == m.weight.shape
        and _differs(healthy, m)
    }
    fix = f"load the reference's weights of {case.block.name}"
    found = [
        Bug(
            "weights differ", name, remade(name, _always(m)), fix, told(case.parts, name),
            f"weight {name}", 8,
        )
        for name, m in own.items()
    ]  # fmt: skip
    if len(own) > 1:
        names = ", ".join(told(case.parts, n) for n in own)
        found.append(Bug("weights differ", "out", _put(own), fix, names, "weights", 9))
    return tuple(found)


def norm_weights(case: Case) -> tuple[Bug, ...]:
    """Return the bug of another norm, as discovery read it in the candidate."""
    norm = case.norm
    if norm is None or norm.form == "none":
        return ()
    bug = Bug(
        "norm differs", "normed", lambda parts: parts.with_(norm=norm),
        f"load the reference's {case.block.norm.module or 'norm'}",
        f"{norm.form}, eps {norm.eps:g}", "norm", 9,
    )  # fmt: skip
    return (bug,)


def _always(own: Matrix) -> Callable[[Matrix], Matrix | None]:
    return lambda _: own


def _put(own: Mapping[str, Matrix]) -> Change:
    return lambda parts: parts.with_(**own)


def _differs(a: Matrix, b: Matrix) -> bool:
    if (a.bias is None) != (b.bias is None):
        return True
    same = bool((a.weight.to(b.weight.dtype) == b.weight).all())
    if a.bias is not None and b.bias is not None:
        same = same and bool((a.bias.to(b.bias.dtype) == b.bias).all())
    return not same

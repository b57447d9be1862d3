"""Plan to move the gain and the bias of a norm into the matrices that read it."""

from torch import Tensor, nn

from ffn_probe.discover.trace import Graph, Node
from ffn_probe.swaps.plan import Plan
from ffn_probe.swaps.readers import Linear, linear_readers, read_elsewhere
from ffn_probe.swaps.stream import Reading

BIASES = frozenset({"bias", "beta", "b"})
"""Names of a norm's bias."""


def plan_vectors(
    plan: Plan, reading: Reading, graph: Graph, model: nn.Module, *, fold_gain: bool
) -> None:
    """Plan to add a norm's bias (and multiply its gain) into the matrices behind it.

    A norm that is also read by something else, or whose matrices are, is a reason against it.
    """
    gain, bias = vectors_of(model.get_submodule(reading.path), reading.passes[0][1].shape[-1])
    beta = bias.detach().reshape(-1) if bias is not None and bool(bias.any()) else None
    if beta is None and not fold_gain:
        return
    found: list[Linear] = []
    for _, out in reading.passes:
        linears, others = linear_readers(out, graph, model)
        found += linears
        plan.reasons += [
            f"{reading.path} has a {'gain to fold' if beta is None else 'bias'} and is read by "
            f"what is no matrix: {other} (that norm alone may stay as it is)"
            for other in others
        ]
    nodes = {linear.node for linear in found}
    for linear in {(each.weight, each.bias, each.slot): each for each in found}.values():
        if beta is not None:
            _plan_bias(plan, linear, beta, reading.path, nodes, graph)
        if fold_gain and gain is not None:
            _plan_gain(plan, linear, effective_gain(gain, reading), reading.path, nodes, graph)


def _plan_bias(
    plan: Plan, linear: Linear, beta: Tensor, norm: str, nodes: set[Node], graph: Graph
) -> None:
    delta = _through(linear, beta.double())
    if delta is None:
        plan.reasons.append(f"{linear.path} reads {norm} by a weight that is no single matrix")
    elif linear.bias:
        elsewhere = read_elsewhere(linear.bias, nodes, graph)
        if linear.bias in plan.biases:
            elsewhere = "a matrix with another weight"
        if elsewhere:
            plan.reasons.append(
                f"{linear.bias} cannot take the bias of {norm}: it is also read by {elsewhere}"
            )
        plan.biases[linear.bias] = norm
        plan.edit(linear.bias, lambda values: values + delta.to(values.device).view_as(values))
    elif linear.slot is None:
        plan.reasons.append(
            f"{norm} has a bias, and {linear.path or linear.weight} has no place for one"
        )
    elif not _only_reads(linear, nodes, graph):
        plan.reasons.append(f"{linear.path} also reads what {norm} does not normalise")
    else:
        plan.added[linear.slot] = delta


def _plan_gain(
    plan: Plan, linear: Linear, gain: Tensor, norm: str, nodes: set[Node], graph: Graph
) -> None:
    elsewhere = read_elsewhere(linear.weight, nodes, graph)
    if elsewhere:
        plan.reasons.append(
            f"{linear.weight} cannot take the gain of {norm}: it is also read by {elsewhere}"
        )
    elif linear.weight not in plan.folded:
        plan.folded[linear.weight] = norm
        axis = linear.axis

        def scaled(values: Tensor) -> Tensor:
            sizes = [1] * values.dim()
            sizes[axis] = len(gain)
            return values * gain.double().to(values.device).view(sizes)

        plan.edit(linear.weight, scaled)


def _through(linear: Linear, beta: Tensor) -> Tensor | None:
    """Return what a matrix makes of a vector [d_model], in float64."""
    value = linear.operand.value
    if value is None:
        return None
    weight = value.detach().double()
    weight = weight.flatten(1) if linear.rows_out else weight
    if weight.dim() != 2 or weight.shape[1 if linear.rows_out else 0] != len(beta):
        return None
    return weight @ beta if linear.rows_out else beta @ weight


def _only_reads(linear: Linear, nodes: set[Node], graph: Graph) -> bool:
    return all(
        node in nodes
        for node in graph.nodes
        if node.module == linear.path and linear.operand in node.parents
    )


def vectors_of(
    module: nn.Module, width: int
) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Return the parameters of a norm module that hold its gain and its bias."""
    vectors = {n: p for n, p in module.named_parameters() if p.numel() == width}
    biases = [p for n, p in vectors.items() if n.rsplit(".", 1)[-1] in BIASES]
    gains = [p for n, p in vectors.items() if n.rsplit(".", 1)[-1] not in BIASES]
    return (gains[0] if gains else None), (biases[0] if biases else None)


def effective_gain(gain: Tensor, reading: Reading) -> Tensor:
    """Return by what a norm multiplies, from what it stores: [width]."""
    flat = gain.detach().reshape(-1)
    return flat + 1 if reading.norm.gain == "1+w" else flat

"""Sites in words: roles and the layers they are in, shortened where layers follow on."""

from collections.abc import Iterable

from ffn_probe.anatomy import Site
from ffn_probe.figures.grid import ordered_roles


def places(sites: Iterable[Site]) -> str:
    """Return "value of layers 0-3 and 5, gate_act of layer 2"; experts of a mixture once."""
    layers: dict[str, set[int]] = {}
    for site in sites:
        layers.setdefault(site.role, set()).add(site.layer)
    return ", ".join(f"{role} of {spans(layers[role])}" for role in ordered_roles(layers))


def spans(numbers: Iterable[int]) -> str:
    """Return "layer 2" or "layers 0-3 and 5".

    >>> spans([2]), spans([5, 0, 1, 2, 3]), spans([0, 1, 4, 7, 8])
    ('layer 2', 'layers 0-3 and 5', 'layers 0, 1, 4, 7 and 8')
    """
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    parts: list[str] = []
    for span in found:
        parts += [f"{span[0]}-{span[-1]}"] if len(span) > 2 else [str(n) for n in span]
    if len(parts) == 1 and len(found[0]) == 1:
        return f"layer {parts[0]}"
    listed = ", ".join(parts[:-1])
    return f"layers {listed} and {parts[-1]}" if listed else f"layers {parts[0]}"

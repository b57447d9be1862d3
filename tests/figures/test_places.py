"""Sites in words."""

import pytest

from ffn_probe.anatomy import Site
from ffn_probe.figures.places import places, spans


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([2], "layer 2"),
        ([0, 1], "layers 0 and 1"),
        ([0, 1, 2], "layers 0-2"),
        ([5, 0, 1, 2, 3, 3], "layers 0-3 and 5"),
        ([0, 1, 4, 7, 8], "layers 0, 1, 4, 7 and 8"),
    ],
)
def test_layers_that_follow_on_are_spans(numbers: list[int], text: str) -> None:
    assert spans(numbers) == text


def test_roles_come_in_the_order_of_the_flow_and_experts_once() -> None:
    sites = [Site(i, "mlp", role, e) for i in (0, 1, 2) for role in ("out", "gate")
             for e in range(4)]  # fmt: skip
    assert places([*sites, Site(7, "x", "odd")]) == (
        "gate of layers 0-2, out of layers 0-2, odd of layer 7"
    )

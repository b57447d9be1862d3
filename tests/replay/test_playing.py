from itertools import permutations

import pytest
import torch

from ffn_probe import discover
from ffn_probe.replay.parts import Parts, parts_of
from ffn_probe.replay.playing import comparable, differing, mixed, shares
from ffn_probe.zoo.fingerprint import Match
from sample_runs.tiny_lm import held_back, load
from tests.replay.planted import with_rms_norms, with_scaled


def part(model: torch.nn.Module, layer: int = 1) -> Parts:
    batch = held_back(count=1, sequences=1, length=32)[0]
    return parts_of(model, discover(model, batch)[layer])


@pytest.fixture(scope="module")
def swiglu() -> Parts:
    return part(load("rms-swiglu"))


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) + 0.2


def changed(parts: Parts) -> Parts:
    """Return a block in which activation, gate and down differ."""
    down = parts.down
    gate = parts.gate
    return parts.with_(
        activation=Match("gelu", 0.0),
        gate=type(gate)(gate.weight * 1.1, gate.bias),
        down=type(down)(down.weight * 0.9, down.bias),
    )


def test_only_the_parts_that_differ_play(swiglu):
    assert differing(swiglu, swiglu) == ()
    assert differing(swiglu, changed(swiglu)) == ("activation", "w_gate", "w_down")
    other = part(with_rms_norms())
    assert differing(part(load("ln-gelu")), other) == ("norm",)


def test_the_shares_add_to_the_whole_error_in_every_fold(swiglu, rows):
    folds = torch.arange(64) % 5
    found = shares(swiglu, changed(swiglu), rows, folds)
    names = ("norm", "activation", "w_gate", "w_up", "w_down")
    total = sum(found[name] for name in names)
    assert torch.allclose(total, found["total"], rtol=1e-9, atol=1e-12)
    assert (found["total"][:5] > 0).all()
    assert found["norm"].abs().sum() == 0
    assert found["w_up"].abs().sum() == 0


def test_a_share_is_the_mean_over_all_orders(swiglu, rows):
    other, folds = changed(swiglu), torch.zeros(64, dtype=torch.int64)
    found = shares(swiglu, other, rows, folds)

    @torch.no_grad()
    def error(chosen: frozenset[str]) -> float:
        base = swiglu.run({"resid": rows})["out"]
        apart = mixed(swiglu, other, chosen).run({"resid": rows})["out"] - base
        return float(apart.double().square().sum())

    players = ("activation", "w_gate", "w_down")
    for player in players:
        gains = []
        for order in permutations(players):
            before = frozenset(order[: order.index(player)])
            gains.append(error(before | {player}) - error(before))
        mean = sum(gains) / len(gains)
        assert float(found[player][0]) == pytest.approx(mean, rel=1e-4)
    assert float(found["alone:w_gate"][0]) == pytest.approx(
        error(frozenset({"w_gate"})), rel=1e-4
    )


def test_one_changed_part_has_all_of_the_error(rows):
    model = with_scaled("rms-swiglu", "layers.1.ffn.up.weight", 1.05)
    found = shares(
        part(load("rms-swiglu")), part(model), rows, torch.zeros(64, dtype=torch.int64)
    )
    assert float(found["w_up"][0]) == pytest.approx(float(found["total"][0]))
    assert float(found["total"][0]) > 0


def test_blocks_that_cannot_be_mixed_say_why(swiglu):
    plain = part(load("ln-gelu"))
    assert "gated" in comparable(swiglu, plain)
    down = swiglu.down
    narrow = swiglu.with_(down=type(down)(down.weight[:, :100], None))
    assert "(96, 256) and (96, 100)" in comparable(swiglu, narrow)
    assert comparable(swiglu, swiglu) == ""

"""The autopsy is silent on healthy models, and admits what it cannot explain."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ffn_probe.replay.autopsy import Autopsy, autopsy
from tests.replay.autopsy.hosts import HOSTS, batches, blocks, reference
from tests.replay.autopsy.naming import FLOOR, told
from tests.replay.autopsy.planted import (
    Plant,
    candidate,
    folded_gain,
    healthy_hidden,
    noisy_down,
    permuted_alike,
    rewritten,
    rewritten_with,
)  # fmt: skip

DTYPES = (torch.float32, torch.bfloat16)


def _examined(name: str, other: nn.Module) -> Autopsy:
    return autopsy(reference(name), other, batches(), found=blocks(name), rows=256)


@pytest.mark.parametrize("name", list(HOSTS))
def test_a_model_against_itself_differs_nowhere(name: str) -> None:
    found = _examined(name, copy.deepcopy(reference(name)))
    assert found.verdict.startswith(FLOOR)
    assert {f.measured_db for f in found.findings} == {float("inf")}
    assert found.hypotheses == ()


@pytest.mark.parametrize("name", list(HOSTS))
def test_a_model_cast_to_bfloat16_has_no_bug_and_no_bug_in_its_noise(name: str) -> None:
    found = _examined(name, copy.deepcopy(reference(name)).bfloat16())
    assert found.verdict.startswith(FLOOR), found.verdict
    assert found.hypotheses == ()
    assert all(45 < f.floor_db < 60 for f in found.findings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(HOSTS))
def test_another_implementation_of_the_same_has_no_bug(name: str, dtype: torch.dtype) -> None:
    host = HOSTS[name]
    found = _examined(name, candidate(Plant("", rewritten), host, dtype))
    assert found.bugs == (), found.verdict
    assert {h.name for h in found.hypotheses} <= {"cast order"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gpt2", "fused", "llama"])
def test_neurons_permuted_alike_are_harmless(name: str, dtype: torch.dtype) -> None:
    found = _examined(name, candidate(Plant("", permuted_alike), HOSTS[name], dtype))
    assert found.bugs == (), found.verdict
    assert "harmless, the neurons are in another order" in found.verdict


@pytest.mark.parametrize("name", list(HOSTS))
def test_a_gain_folded_into_the_projections_is_harmless(name: str) -> None:
    found = _examined(name, candidate(Plant("", folded_gain), HOSTS[name], torch.float32))
    assert found.bugs == (), found.verdict
    assert "harmless, the norm and the projections differ" in found.verdict


def test_other_weights_are_told_as_weights_that_differ() -> None:
    found = _examined("llama", candidate(Plant("", noisy_down), HOSTS["llama"], torch.float32))
    assert told(found) == "weights differ"
    assert found.hypotheses[0].variant == "down"
    assert 15 < found.hypotheses[0].measured_db < 25


def test_what_no_bug_explains_is_unexplained_with_what_was_excluded() -> None:
    host = HOSTS["llama"]

    def odd(gate: Tensor, up: Tensor | None) -> Tensor:
        assert up is not None
        return healthy_hidden(host)(gate, up) + 0.3 * torch.sin(3 * gate)

    found = _examined("llama", candidate(Plant("", rewritten_with(odd)), host, torch.float32))
    assert told(found) == "unexplained"
    assert not any(h.reached for h in found.hypotheses)
    assert len(found.bugs) == 1
    assert "bugs excluded, nearest:" in found.verdict
    assert len(found.excluded) > 50
    assert max(after for _, after in found.excluded) < 60

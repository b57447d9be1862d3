"""What a run keeps of the weights, and of the texts of tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.utils.parametrizations import weight_norm

import ffn_probe as fp
from ffn_probe.errors import AttachError
from tests.probes.models import VOCABULARY, Layer, tiny, tokens

D, H = 32, 48
IDS = {"input_ids": torch.arange(5, 21).view(2, 8)}
TINY = {
    "vocab_size": 64, "hidden_size": D, "intermediate_size": H, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
Three = tuple[Tensor, Tensor, Tensor]


def made(name: str, **config: Any) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def of_llama(model: Any, _: int) -> Three:
    mlp = model.model.layers[0].mlp
    return mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight


def of_phi(model: Any, _: int) -> Three:
    mlp = model.model.layers[0].mlp
    gate, up = mlp.gate_up_proj.weight.chunk(2)
    return gate, up, mlp.down_proj.weight


def of_mixtral(model: Any, expert: int) -> Three:
    experts = model.model.layers[0].mlp.experts
    gate, up = experts.gate_up_proj[expert].chunk(2)
    return gate, up, experts.down_proj[expert]


GATED: dict[str, tuple[str, dict[str, Any], int, Callable[[Any, int], Three]]] = {
    "separate": ("LlamaForCausalLM", TINY, -1, of_llama),
    "fused": ("Phi3ForCausalLM", TINY | {"pad_token_id": 0}, -1, of_phi),
    "expert": ("MixtralForCausalLM", TINY | EXPERTS, 3, of_mixtral),
}


@pytest.mark.parametrize("name", list(GATED))
def test_cosines_and_norms_are_those_of_the_matrices(name: str, tmp_path: Path) -> None:
    kind, config, expert, matrices = GATED[name]
    model = made(kind, **config)
    run = fp.record(model, [IDS], to=tmp_path / "run")
    found = run.weights(run.blocks[0].name, expert)
    gate, up, down = (m.detach() for m in matrices(model, expert))
    assert found is not None
    expected = {
        "cos_gate_up": cosine_similarity(gate, up), "norm_gate": gate.norm(dim=1),
        "norm_up": up.norm(dim=1), "norm_down": down.norm(dim=0), "in_gate": gate.norm(dim=0),
        "in_up": up.norm(dim=0), "out_down": down.norm(dim=1),
        "gain": model.model.layers[0].post_attention_layernorm.weight.detach(),
    }  # fmt: skip
    for field, value in expected.items():
        np.testing.assert_allclose(getattr(found, field), value, rtol=1e-5, atol=1e-6)


def test_a_plain_mlp_has_norms_and_no_cosine(tmp_path: Path) -> None:
    model = made("GPT2LMHeadModel", n_embd=D, n_layer=1, n_head=4, vocab_size=64)
    run = fp.record(model, [IDS], to=tmp_path / "run")
    found = run.weights(run.blocks[0].name)
    mlp = model.transformer.h[0].mlp
    assert found is not None
    assert not found.gated
    np.testing.assert_allclose(found.norm_up, mlp.c_fc.weight.detach().norm(dim=0), rtol=1e-5)
    down = mlp.c_proj.weight.detach().norm(dim=1)
    np.testing.assert_allclose(found.norm_down, down, rtol=1e-5)


def test_a_gain_beside_one_is_kept_as_the_factor_it_is(tmp_path: Path) -> None:
    model = made("GemmaForCausalLM", **TINY | {"head_dim": 8})
    run = fp.record(model, [IDS], to=tmp_path / "run")
    found = run.weights(run.blocks[0].name)
    stored = model.model.layers[0].post_attention_layernorm.weight.detach()
    assert run.blocks[0].norm.gain == "1+w"
    assert found is not None
    np.testing.assert_allclose(found.gain, 1 + stored, rtol=1e-6)


def test_a_weight_that_is_not_stored_as_it_is_used_is_left_out_with_a_note(
    tmp_path: Path,
) -> None:
    model = tiny()
    weight_norm(cast("nn.Module", model.layers[1].up))
    run = fp.record(model, [tokens()], to=tmp_path / "run")
    (note,) = run.problems
    assert "the weights of layers.1 could not be read" in note
    assert "layers.1.up is a ParametrizedLinear" in note
    assert run.weights("layers.0") is not None
    assert run.weights("layers.1") is None


def test_weights_are_not_read_when_they_are_not_wanted(tmp_path: Path) -> None:
    run = fp.record(tiny(), [tokens()], to=tmp_path / "run", weights=False)
    assert run.weights("layers.0") is None
    assert run.problems == ()


def test_reading_the_weights_runs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    model = tiny()
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    found = fp.scan(model, tokens())
    called: list[nn.Module] = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: called.append(module))
    with (
        pytest.raises(AttachError, match="nothing was recorded"),
        fp.attach(model, to=tmp_path / "run", found=found),
    ):
        pass
    assert called == []
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


# Texts of tokens


class Tokenizer:
    """Names its tokens as byte-level vocabularies do, in which half a letter is no text."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"\u2581t{ids[0]}" if ids[0] % 2 else "\u00c3"]

    def decode(self, ids: list[int]) -> str:
        return "\ufffd" if ids[0] % 4 else f"\n{ids[0]}\u202e"


def test_the_texts_are_of_the_tokens_among_the_largest_values(tmp_path: Path) -> None:
    texts = {i: f"<{i}>" for i in range(VOCABULARY)}
    run = fp.record(tiny(), [tokens()], to=tmp_path / "run", vocabulary=texts)
    listed = {int(t) for lists in run.table("extremes")["top_token"] for t in lists if t >= 0}
    assert run.manifest.vocabulary == {str(t): f"<{t}>" for t in sorted(listed)}


def test_a_tokenizer_names_tokens_in_letters_that_can_be_seen(tmp_path: Path) -> None:
    run = fp.record(tiny(), [tokens()], to=tmp_path / "run", vocabulary=Tokenizer())
    kinds: dict[int, Callable[[str], str]] = {
        1: lambda t: f" t{t}", 3: lambda t: f" t{t}",
        2: lambda _: "\u00c3", 0: lambda t: f"\u21b5{t}<U+202E>",
    }  # fmt: skip
    assert run.manifest.vocabulary
    for key, text in run.manifest.vocabulary.items():
        assert text == kinds[int(key) % 4](key)


def test_a_vocabulary_that_fails_costs_a_note_not_the_run(tmp_path: Path) -> None:
    class Broken:
        def decode(self, ids: list[int]) -> str:
            raise KeyError(ids[0])

    run = fp.record(tiny(), [tokens()], to=tmp_path / "run", vocabulary=Broken())
    assert run.closed
    assert run.manifest.vocabulary == {}
    assert any("the texts of tokens are not known: KeyError" in note for note in run.problems)


def test_what_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="vocabulary is a list; expected a tokenizer"):
        fp.record(tiny(), [tokens()], to=tmp_path / "run", vocabulary=["a"])
    assert not (tmp_path / "run").exists()


def test_values_without_a_token_have_no_text(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 7, 16)
    texts = {-1: "none", 0: "zero"}
    run = fp.record(Layer(16, 40, 0.0), [rows], to=tmp_path / "run", vocabulary=texts)
    assert {int(t) for lists in run.table("extremes")["top_token"] for t in lists} == {-1}
    assert run.manifest.vocabulary == {}

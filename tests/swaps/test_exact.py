import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ffn_probe.discover.discover import discover
from ffn_probe.errors import SwapError, UnknownName
from ffn_probe.swaps.exact import exact_norm, exactly
from sample_runs import tiny_lm

IDS = {"input_ids": torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(3))}
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
LEGACY = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
GPT2 = LEGACY | {"n_embd": 32, "n_layer": 2, "n_head": 4}
CONVERTIBLE: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": GPT2,
    "GPTNeoXForCausalLM": LEGACY,
    "OPTForCausalLM": LEGACY | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "PhiForCausalLM": LEGACY,
    "StableLmForCausalLM": SMALL,
    "NemotronForCausalLM": SMALL,
    "GPTJForCausalLM": GPT2 | {"rotary_dim": 4, "n_inner": 48},
    "FalconForCausalLM": LEGACY | {"num_hidden_layers": 2, "new_decoder_architecture": True},
    "Starcoder2ForCausalLM": SMALL,
}


def disturbed(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Move every parameter, so that no gain is one, no bias zero and every mean is off."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) + 0.05)
    return model.eval().to(dtype)


def pretrained(name: str, config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return disturbed(cls(cls.config_class(**config)))


def logits(model: nn.Module, example: Any) -> Tensor:
    with torch.no_grad():
        out = model(**example) if isinstance(example, dict) else model(example)
    return out if isinstance(out, Tensor) else out[0]


def sqnr_db(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(a.square().sum() / (a - b).square().sum()))


def text() -> dict[str, Tensor]:
    return tiny_lm.held_back(count=1, sequences=2, length=96)[0]


def naive_db(model: nn.Module, example: Any) -> float:
    """Return what a hasty edit leaves: each norm swapped with its gain alone."""
    edited = copy.deepcopy(model)
    for path, norm in list(edited.named_modules()):
        if isinstance(norm, nn.LayerNorm):
            new = nn.RMSNorm(norm.normalized_shape, eps=norm.eps)
            new.weight = norm.weight
            edited.set_submodule(path, new)
    return sqnr_db(logits(model, example), logits(edited, example))


# ---- exact ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ln-gelu", "ln-swiglu"])
def test_a_converted_sample_model_gives_the_same_logits_and_a_naive_swap_does_not(
    name: str,
) -> None:
    model, example = tiny_lm.load(name), text()
    before = logits(model, example)
    assert 10 < naive_db(model, example) < 35
    with exactly(model, example) as done:
        after = logits(model, example)
        kinds = {block.norm.kind for block in discover(model, example)}
    assert len(done.norms) == 9
    assert float((before - after).abs().max() / before.abs().max()) < 1e-5
    assert kinds == {"rmsnorm"}


@pytest.mark.parametrize("name", ["ln-gelu", "ln-swiglu"])
def test_a_converted_sample_model_is_no_farther_from_the_truth_than_the_original(
    name: str,
) -> None:
    model, example = tiny_lm.load(name), text()
    truth = logits(tiny_lm.load(name).double(), example)
    error = float((logits(model, example) - truth).abs().max())
    with exactly(model, example):
        assert float((logits(model, example) - truth).abs().max()) < 2 * error


@pytest.mark.parametrize("name", ["ln-gelu", "ln-swiglu"])
@pytest.mark.parametrize("fold_gain", [False, True])
def test_conversion_is_exact_to_rounding_in_float64(name: str, *, fold_gain: bool) -> None:
    model, example = tiny_lm.load(name).double(), text()
    before = logits(model, example)
    with exactly(model, example, fold_gain=fold_gain) as done:
        after = logits(model, example)
    relative = float((before - after).abs().max() / before.abs().max())
    assert relative < 2e-14
    assert done.max_relative == pytest.approx(relative)
    assert done.sqnr_db > 290


@pytest.mark.parametrize("name", sorted(CONVERTIBLE))
def test_transformers_models_are_converted_exactly(name: str) -> None:
    model = pretrained(name, CONVERTIBLE[name])
    before = logits(model, IDS)
    with exactly(model, IDS) as done:
        after = logits(model, IDS)
    assert not done.left
    assert sqnr_db(before, after) > 290


def test_a_stream_whose_norm_computes_in_float32_is_converted_to_its_precision() -> None:
    model = pretrained("CohereForCausalLM", SMALL)
    with exactly(model, IDS) as done:
        assert done.biases == ()
        assert done.sqnr_db > 120


def test_what_a_converted_model_does_not_see_in_its_example_is_right_too() -> None:
    model = tiny_lm.load("ln-gelu").double()
    other = tiny_lm.held_back(count=4, sequences=2, length=64)[3]
    before = logits(model, other)
    with exactly(model, text()):
        assert sqnr_db(before, logits(model, other)) > 280


@pytest.mark.parametrize(
    "target_name", ["rmsnorm", "rmsnorm_fp32", "rmsnorm_1p", "rmsnorm_native"]
)
@pytest.mark.parametrize("model_name", ["StableLmForCausalLM", "NemotronForCausalLM"])
def test_every_form_of_rmsnorm_takes_the_gain_in_its_own_way(
    target_name: str, model_name: str
) -> None:
    model = pretrained(model_name, CONVERTIBLE[model_name])
    before = logits(model, IDS)
    with exactly(model, IDS, target=target_name):
        assert sqnr_db(before, logits(model, IDS)) > 120
        found = {block.norm.gain for block in discover(model, IDS)}
    assert found == {"1+w" if target_name == "rmsnorm_1p" else "w"}


def test_folding_the_gain_leaves_ones() -> None:
    model = tiny_lm.load("ln-gelu")
    with exactly(model, text(), fold_gain=True) as done:
        gains = [model.get_submodule(path).weight for path in done.norms]
    assert len(done.folded) == 9
    assert all(bool((gain == 1).all()) for gain in gains)


def test_one_norm_alone_may_be_converted_and_the_others_stay_exact() -> None:
    model = tiny_lm.load("ln-gelu").double()
    before = logits(model, text())
    with exactly(model, text(), only=["layers.2.ffn_norm"]) as done:
        assert sqnr_db(before, logits(model, text())) > 280
        kinds = [block.norm.kind for block in discover(model, text())]
    assert done.norms == ("layers.2.ffn_norm",)
    assert kinds == ["layernorm", "layernorm", "rmsnorm", "layernorm"]


def test_the_rest_may_be_converted_after_one_was() -> None:
    model = tiny_lm.load("ln-gelu").double()
    before = logits(model, text())
    with exactly(model, text(), only=["layers.2.ffn_norm"]), exactly(model, text()) as done:
        assert sqnr_db(before, logits(model, text())) > 280
    assert len(done.norms) == 8
    assert done.centred == ()


def test_a_bias_alone_may_be_taken_out_of_every_layernorm() -> None:
    model = tiny_lm.load("ln-gelu").double()
    before = logits(model, text())
    with exactly(model, text(), target="layernorm_nobias") as done:
        assert sqnr_db(before, logits(model, text())) > 290
        found = {(block.norm.kind, block.norm.bias) for block in discover(model, text())}
    assert found == {("layernorm", False)}
    assert done.centred == ()
    assert len(done.biases) == 9


def test_a_model_with_tied_embeddings_may_lose_its_biases_all_the_same() -> None:
    model = pretrained("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": True})
    before = logits(model, IDS)
    with exactly(model, IDS, target="layernorm_nobias"):
        assert sqnr_db(before, logits(model, IDS)) > 290
        assert model.lm_head.weight is model.transformer.wte.weight


def test_a_norm_without_a_bias_has_none_to_lose() -> None:
    with pytest.raises(SwapError, match="nothing to turn into layernorm_nobias"):
        exact_norm(
            pretrained("CohereForCausalLM", SMALL), IDS, ExitStack(), target="layernorm_nobias"
        )


# ---- back -------------------------------------------------------------------------------


def test_a_centred_stream_takes_layernorm_again() -> None:
    model = tiny_lm.load("ln-gelu").double()
    before = logits(model, text())
    with exactly(model, text()), exactly(model, text(), target="layernorm") as done:
        assert sqnr_db(before, logits(model, text())) > 280
        kinds = {block.norm.kind for block in discover(model, text())}
    assert len(done.norms) == 9
    assert kinds == {"layernorm"}


def test_an_rmsnorm_of_a_stream_with_a_mean_is_no_layernorm() -> None:
    with pytest.raises(SwapError, match=r"the stream has a mean.*positions.weight writes"):
        exact_norm(tiny_lm.load("rms-gelu"), text(), ExitStack(), target="layernorm")


# ---- undo -------------------------------------------------------------------------------


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "modules": {n: id(m) for n, m in model.named_modules()},
        "parameters": {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)},
        "values": {n: v.clone() for n, v in model.state_dict().items()},
        "hooks": {n: len(m._forward_pre_hooks) for n, m in model.named_modules()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "order": [list(m._parameters) + list(m._modules) for m in model.modules()],
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    values = all(torch.equal(v, b["values"][n]) for n, v in a["values"].items())
    rest = all(a[key] == b[key] for key in a if key != "values")
    return values and rest and list(a["values"]) == list(b["values"])


def test_leaving_puts_the_very_objects_back() -> None:
    model = tiny_lm.load("ln-swiglu")
    before, out = snapshot(model), logits(model, text())
    with exactly(model, text(), fold_gain=True):
        assert not same(before, snapshot(model))
    assert same(before, snapshot(model))
    assert torch.equal(out, logits(model, text()))


def test_an_exception_inside_undoes_it_too() -> None:
    model = tiny_lm.load("ln-gelu")
    before = snapshot(model)
    with pytest.raises(RuntimeError), exactly(model, text()):
        raise RuntimeError
    assert same(before, snapshot(model))


def test_parameters_that_were_shared_stay_shared() -> None:
    model = tiny_lm.load("ln-gelu")
    model.layers[2].ffn.down = model.layers[1].ffn.down
    model.layers[3].attn.proj.weight = model.layers[0].attn.proj.weight
    before = snapshot(model)
    with exactly(model, text()):
        assert model.layers[2].ffn.down.weight is model.layers[1].ffn.down.weight
        assert model.layers[3].attn.proj.weight is model.layers[0].attn.proj.weight
    assert same(before, snapshot(model))


def test_gradients_flow_through_a_converted_model() -> None:
    model = tiny_lm.load("ln-gelu")
    with exactly(model, text()) as done:
        model(**text()).sum().backward()
        got = {n for n, p in model.named_parameters() if p.grad is not None}
    assert set(done.centred) | set(done.biases) <= got


# ---- refusals ---------------------------------------------------------------------------

D, VOCABULARY = 32, 50


class Pre(nn.Module):
    """Two pre-norm layers with a head; `edge` is put between a branch and the stream."""

    def __init__(self, edge: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, D)
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.ups = nn.ModuleList(nn.Linear(D, 48) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(48, D) for _ in range(2))
        self.edges = nn.ModuleList(edge() for _ in range(2))
        self.final = nn.LayerNorm(D)
        self.head = nn.Linear(D, VOCABULARY, bias=False)

    def stream(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for norm, up, down, edge in zip(
            self.norms, self.ups, self.downs, self.edges, strict=True
        ):
            x = x + edge(down(torch.relu(up(norm(x)))))
        return x

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.final(self.stream(ids)))


class Scaled(nn.Module):
    """A multiplier a channel (LayerScale)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class Gated(nn.Module):
    """A gate a channel, made from the branch itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Peek(Pre):
    """The stream is read by a matrix without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.peek = nn.Linear(D, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(ids)
        return self.head(self.final(x)) + self.peek(x)


class Curved(Pre):
    """The last norm is read by a nonlinearity."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.final(self.stream(ids))))


class Tied(Pre):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.tokens.weight


class Functional(Pre):
    """The last norm is a function, not a module."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(ids)
        return self.head(nn.functional.layer_norm(x, (D,), self.final.weight, self.final.bias))


class Headless(Pre):
    """The stream itself is returned."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.stream(ids)


class Outside(Pre):
    """The stream begins outside of the model."""

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(torch.relu(up(norm(x))))
        return self.head(self.final(x))


class Shifted(Pre):
    """A number is added to every channel."""

    def stream(self, ids: Tensor) -> Tensor:
        return super().stream(ids) + 0.5


class TwoNorms(Pre):
    """One head reads two norms, which have two biases."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.LayerNorm(D)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stream(ids)
        return self.head(self.final(x)) + self.head(self.other(x))


class Mixed(Pre):
    """One norm of the stream is an RMSNorm already."""

    def __init__(self) -> None:
        super().__init__()
        self.norms[1] = nn.RMSNorm(D)


class TiedBias(Pre):
    """Two matrices that read one norm share a bias, and no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.other = nn.Linear(D, VOCABULARY), nn.Linear(D, VOCABULARY)
        self.other.bias = self.head.bias

    def forward(self, ids: Tensor) -> Tensor:
        x = self.final(self.stream(ids))
        return self.head(x) - 0.5 * self.other(x)


class Sandwich(Pre):
    """x + norm(f(norm(x)))."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.LayerNorm(D))


TOKENS = torch.randint(0, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(0))

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tied": (Tied, r"weight is tied: .*is read by 'linear' in head"),
    "layer scale": (lambda: Pre(Scaled), "multiplied channel by channel"),
    "gate": (lambda: Pre(Gated), "multiplied channel by channel"),
    "nonlinearity": (lambda: Pre(nn.GELU), "made by 'gelu', which is no matrix"),
    "peek": (Peek, "read by what is no norm: 'linear' in peek"),
    "curved": (Curved, "final has a bias and is read by what is no matrix: 'relu'"),
    "functional": (Functional, "read by what is no norm: 'layer_norm'"),
    "headless": (Headless, "the model returns it"),
    "shifted": (Shifted, "0.5 is added to every channel"),
    "two norms": (TwoNorms, "also reads what final does not normalise"),
    "tied bias": (TiedBias, r"head\.bias cannot take the bias of final: .* another weight"),
    "mixed": (Mixed, r"norms\.1 is no LayerNorm and reads the stream's mean"),
    "sandwich": (Sandwich, "the norm edges.0 writes into the stream"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_exact_is_refused_with_the_reason_and_changes_nothing(name: str) -> None:
    make, reason = REFUSED[name]
    torch.manual_seed(0)
    model = disturbed(make())
    before = snapshot(model)
    with pytest.raises(SwapError, match=reason) as refusal, ExitStack() as stack:
        exact_norm(model, TOKENS, stack)
    assert "Nothing was changed" in str(refusal.value)
    assert same(before, snapshot(model))


def test_a_stream_that_begins_outside_of_the_model_is_refused() -> None:
    example = torch.randn(2, 7, D, dtype=torch.float64)
    with pytest.raises(SwapError, match="it is an argument of the model"):
        exact_norm(disturbed(Outside()), example, ExitStack())


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("BertForMaskedLM", LEGACY, "post-norm: bert.encoder.layer.0.attention.output"),
        ("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": True}, "wte.weight is tied"),
        ("BloomForCausalLM", LEGACY | {"n_layer": 2, "n_head": 4}, "word_embeddings_layernorm"),
        ("GPT2Model", GPT2, "ln_f has a bias .* the model returns it"),
        ("LlamaForCausalLM", SMALL, "no layernorm of LlamaForCausalLM reads"),
    ],
)
def test_transformers_models_that_cannot_be_exact_say_why(
    name: str, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SwapError, match=reason):
        exact_norm(pretrained(name, config), IDS, ExitStack())


def test_the_healthy_control_of_the_refusals_is_converted() -> None:
    torch.manual_seed(0)
    model = disturbed(Pre())
    before = logits(model, TOKENS)
    with exactly(model, TOKENS) as done:
        assert sqnr_db(before, logits(model, TOKENS)) > 290
    assert done.added == ("head.bias",)


def test_a_multiplier_that_is_the_same_for_every_channel_is_no_obstacle() -> None:
    class Halved(Pre):
        def stream(self, ids: Tensor) -> Tensor:
            return 0.5 * super().stream(ids) / (1 + ids[..., None])

    torch.manual_seed(0)
    model = disturbed(Halved())
    before = logits(model, TOKENS)
    with exactly(model, TOKENS):
        assert sqnr_db(before, logits(model, TOKENS)) > 290


class InPlace(Pre):
    """The stream is added to in place."""

    def stream(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x += down(torch.relu(up(norm(x))))
        return x


class Weighted(Pre):
    """A branch is weighed by one learned number, added with a factor, and masked by row."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Parameter(torch.tensor(0.3))

    def stream(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = torch.add(x, self.weigh * down(torch.relu(up(norm(x)))), alpha=0.7)
        return x.masked_fill((ids == 3)[..., None], 0.0)


class Sliced(Pre):
    """Positions are a slice of a table, a token of its own comes first, one row is read."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(20, D))
        self.first = nn.Parameter(torch.randn(1, 1, D))

    def stream(self, ids: Tensor) -> Tensor:
        x = super().stream(ids) + self.positions[: ids.shape[1]]
        return torch.cat([self.first.expand(len(ids), -1, -1), x], dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.final(self.stream(ids))[:, 0])


class Tabled(Pre):
    """Positions are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sinusoids", torch.linspace(0, 9, 20 * D).sin().view(20, D))

    def stream(self, ids: Tensor) -> Tensor:
        return super().stream(ids) + self.sinusoids[: ids.shape[1]]


class Shared(Pre):
    """Every layer runs the same modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([self.norms[0]] * 2)
        self.ups = nn.ModuleList([self.ups[0]] * 2)
        self.downs = nn.ModuleList([self.downs[0]] * 2)


class Plainest(Pre):
    """Norms without gain and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(D, elementwise_affine=False) for _ in "ab")
        self.final = nn.LayerNorm(D, elementwise_affine=False)


@pytest.mark.parametrize(
    "make", [InPlace, Weighted, Sliced, Tabled, Shared, Plainest], ids=lambda c: c.__name__
)
def test_streams_of_many_makings_are_converted_and_given_back(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    model = disturbed(make())
    before, out = snapshot(model), logits(model, TOKENS)
    with exactly(model, TOKENS) as done:
        assert sqnr_db(out, logits(model, TOKENS)) > 285
        assert not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    assert len(done.norms) == len({id(n) for n in (*model.norms, model.final)})
    assert same(before, snapshot(model))


def test_a_stream_in_half_precision_is_converted_to_its_own_rounding() -> None:
    model = tiny_lm.load("ln-gelu")
    truth = logits(model, text())
    model.bfloat16()
    before = sqnr_db(truth, logits(model, text()).float())
    with exactly(model, text()):
        after = sqnr_db(truth, logits(model, text()).float())
    assert before > 30
    assert after > before - 3


def test_a_norm_of_the_embedding_with_one_gain_can_be_centred() -> None:
    model = disturbed(Pre())
    model.tokens = nn.Sequential(nn.Embedding(VOCABULARY, D), nn.LayerNorm(D)).double()
    with torch.no_grad():
        model.tokens[1].weight.fill_(1.7)
        model.tokens[1].bias.normal_()
    before = logits(model, TOKENS)
    with exactly(model, TOKENS) as done:
        assert sqnr_db(before, logits(model, TOKENS)) > 290
    assert "tokens.1.bias" in done.centred


def test_a_conversion_that_one_pass_cannot_see_through_is_undone() -> None:
    class Late(Pre):
        """Reads the mean where tracing does not look: through numpy."""

        def forward(self, ids: Tensor) -> Tensor:
            x = self.stream(ids)
            bump = float(x.detach().numpy().mean())
            return self.head(self.final(x)) * (1 + bump)

    torch.manual_seed(0)
    model = disturbed(Late())
    before = snapshot(model)
    with pytest.raises(SwapError, match="reads the stream's mean"):
        exact_norm(model, TOKENS, ExitStack())
    assert same(before, snapshot(model))


def test_outputs_that_are_not_finite_say_nothing_about_exactness() -> None:
    model = disturbed(Pre())
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    before = snapshot(model)
    with pytest.raises(SwapError, match="returns no finite number"):
        exact_norm(model, TOKENS, ExitStack())
    assert before["parameters"] == snapshot(model)["parameters"]


def test_unknown_names_are_met_with_the_known_ones() -> None:
    model = tiny_lm.load("ln-gelu")
    with pytest.raises(UnknownName, match=r"Did you mean 'rmsnorm'"):
        exact_norm(model, text(), ExitStack(), target="rmsnrm")
    with pytest.raises(UnknownName, match=r"Did you mean 'layers.0.ffn_norm'"):
        exact_norm(model, text(), ExitStack(), only=["layers.0.fnn_norm"])


def test_a_norm_that_reads_no_stream_says_so() -> None:
    class Ended(Pre):
        """A norm of what the head made: no stream."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.LayerNorm(VOCABULARY)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(super().forward(ids))

    with pytest.raises(SwapError, match="last reads no residual stream"):
        exact_norm(disturbed(Ended()), TOKENS, ExitStack(), only=["last"])


def test_torchs_own_encoder_is_converted() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(D, 4, 48, batch_first=True, norm_first=True)
            self.tokens = nn.Embedding(VOCABULARY, D)
            self.layers = nn.TransformerEncoder(
                layer, 2, norm=nn.LayerNorm(D), enable_nested_tensor=False
            )
            self.head = nn.Linear(D, VOCABULARY)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.layers(self.tokens(ids)))

    model = disturbed(Encoder())
    before = logits(copy.deepcopy(model), TOKENS)
    with exactly(model, TOKENS) as done:
        assert sqnr_db(before, logits(model, TOKENS)) > 290
    assert len(done.norms) == 5

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from ffn_probe.discover.trace import trace
from ffn_probe.swaps.readers import linear_readers
from ffn_probe.swaps.stream import Stream, norms_of, streams_of
from sample_runs import tiny_lm

IDS = {"input_ids": torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(3))}
LEGACY = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = LEGACY | {"num_key_value_heads": 2}
D = 32


def made(name: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**config)).eval()


def only_stream(model: nn.Module, example: Any) -> Stream:
    (stream,) = streams_of(trace(model, example), model)
    return stream


def written(stream: Stream) -> dict[str, int]:
    return {name: axis for writer in stream.writers for name, axis in writer.parameters}


def per_layer(prefix: str, tables: dict[str, int], layer: dict[str, int]) -> dict[str, int]:
    deep = {f"{prefix}.{i}.{name}": axis for i in range(2) for name, axis in layer.items()}
    return tables | deep


WRITERS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "transposed": (
        "GPT2LMHeadModel",
        LEGACY | {"n_embd": D, "n_layer": 2, "n_head": 4},
        per_layer(
            "transformer.h",
            {"transformer.wte.weight": 1, "transformer.wpe.weight": 1},
            {
                "attn.c_proj.weight": 1, "attn.c_proj.bias": 0,
                "mlp.c_proj.weight": 1, "mlp.c_proj.bias": 0,
            },
        ),
    ),
    "parallel": (
        "GPTNeoXForCausalLM",
        LEGACY,
        per_layer(
            "gpt_neox.layers",
            {"gpt_neox.embed_in.weight": 1},
            {
                "attention.dense.weight": 0, "attention.dense.bias": 0,
                "mlp.dense_4h_to_h.weight": 0, "mlp.dense_4h_to_h.bias": 0,
            },
        ),
    ),
    "projected": (
        "OPTForCausalLM",
        LEGACY | {"ffn_dim": 48, "word_embed_proj_dim": 16},
        per_layer(
            "model.decoder.layers",
            {
                "model.decoder.embed_positions.weight": 1,
                "model.decoder.project_in.weight": 0,
            },
            {
                "self_attn.out_proj.weight": 0, "self_attn.out_proj.bias": 0,
                "fc2.weight": 0, "fc2.bias": 0,
            },
        ),
    ),
    "no biases": (
        "CohereForCausalLM",
        GROUPED,
        per_layer(
            "model.layers",
            {"model.embed_tokens.weight": 1},
            {"self_attn.o_proj.weight": 0, "mlp.down_proj.weight": 0},
        ),
    ),
    "stable": (
        "StableLmForCausalLM",
        GROUPED,
        per_layer(
            "model.layers",
            {"model.embed_tokens.weight": 1},
            {"self_attn.o_proj.weight": 0, "mlp.down_proj.weight": 0},
        ),
    ),
    "rmsnorm": (
        "LlamaForCausalLM",
        GROUPED,
        per_layer(
            "model.layers",
            {"model.embed_tokens.weight": 1},
            {"self_attn.o_proj.weight": 0, "mlp.down_proj.weight": 0},
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_the_writers_are_named_with_the_axis_of_the_stream(name: str) -> None:
    model, config, expected = WRITERS[name]
    stream = only_stream(made(model, **config), IDS)
    assert written(stream) == expected
    assert stream.width == D
    assert stream.others == ()
    assert not any(writer.reason for writer in stream.writers)


def test_a_slice_of_a_parameter_is_a_writer() -> None:
    stream = only_stream(tiny_lm.load("ln-gelu"), tiny_lm.held_back(count=1, length=32)[0])
    tables = [w for w in stream.writers if w.kind == "table"]
    assert [w.parameters for w in tables] == [
        (("positions.weight", 1),),
        (("tokens.weight", 1),),
    ]
    assert len(stream.writers) == 2 + 2 * 4
    assert [n.path for n in stream.norms][-1] == "norm"
    assert len(stream.norms) == 9


def test_a_norm_of_the_embedding_writes_into_the_stream() -> None:
    stream = only_stream(made("BloomForCausalLM", **LEGACY, n_layer=2, n_head=4), IDS)
    norms = [w for w in stream.writers if w.kind == "norm"]
    assert [w.path for w in norms] == ["transformer.word_embeddings_layernorm"]
    assert "transformer.word_embeddings_layernorm" not in {n.path for n in stream.norms}


def test_the_norms_of_queries_and_keys_read_no_stream() -> None:
    model = made("CohereForCausalLM", **GROUPED, use_qk_norm=True)
    graph = trace(model, IDS)
    (stream,) = streams_of(graph, model)
    assert {n.path for n in stream.norms} == {
        "model.layers.0.input_layernorm",
        "model.layers.1.input_layernorm",
        "model.norm",
    }


def test_an_encoder_and_a_decoder_have_a_stream_each() -> None:
    config = {
        "d_model": D, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "vocab_size": 64, "num_mel_bins": 8, "max_source_positions": 8, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip
    model = made("WhisperForConditionalGeneration", **config)
    example = {"input_features": torch.randn(2, 8, 16), "decoder_input_ids": IDS["input_ids"]}
    encoder, decoder = streams_of(trace(model, example), model)
    assert all(n.path.startswith("model.encoder") for n in encoder.norms)
    assert all(n.path.startswith("model.decoder") for n in decoder.norms)
    assert (len(encoder.norms), len(decoder.norms)) == (5, 7)
    assert written(decoder)["model.decoder.layers.1.encoder_attn.out_proj.weight"] == 0
    assert not any(w.reason for w in decoder.writers)


def test_torchs_own_attention_writes_by_its_out_projection() -> None:
    layer = nn.TransformerEncoderLayer(D, 4, 48, batch_first=True, norm_first=True).eval()
    stream = only_stream(layer, torch.randn(2, 5, D))
    assert written(stream) == {
        "self_attn.out_proj.weight": 0,
        "self_attn.out_proj.bias": 0,
        "linear2.weight": 0,
        "linear2.bias": 0,
    }
    reasons = [w.reason for w in stream.writers if w.reason]
    assert reasons == ["it is an argument of the model"]
    assert stream.others == ("the model returns it",)


class Patches(nn.Module):
    """A vision model: patches by a convolution, a token of its own, positions added."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, D, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, D))
        self.positions = nn.Parameter(torch.randn(1, 17, D))
        self.norm = nn.LayerNorm(D)
        self.up, self.down = nn.Linear(D, 48), nn.Linear(48, D)
        self.final = nn.LayerNorm(D)
        self.head = nn.Linear(D, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(self.final(x)[:, 0])


def test_the_axis_is_followed_through_transposes_and_joins() -> None:
    torch.manual_seed(0)
    stream = only_stream(Patches().eval(), torch.randn(2, 3, 16, 16))
    assert written(stream) == {
        "patch.weight": 0, "patch.bias": 0, "first": 2, "positions": 2, "down.weight": 0,
        "down.bias": 0,
    }  # fmt: skip


class Raw(nn.Module):
    """Matrices that are bare parameters, read and written in several ways."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.table = nn.Embedding(20, D)
        self.norm = nn.LayerNorm(D)
        self.up = nn.Parameter(torch.randn(D, 48) / 8)
        self.down = nn.Parameter(torch.randn(*shape) / 8)
        self.product = product

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.product(torch.relu(self.norm(x) @ self.up), self.down)
        return x.softmax(-1)


PRODUCTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], int]] = {
    "matmul": (lambda x, w: x @ w, (48, D), 1),
    "transposed": (lambda x, w: x @ w.t(), (D, 48), 0),
    "einsum": (lambda x, w: torch.einsum("bth,hd->btd", x, w), (48, D), 1),
    "einsum of heads": (
        lambda x, w: torch.einsum("btnh,dnh->btd", x.unflatten(-1, (4, 12)), w),
        (D, 4, 12),
        0,
    ),
    "slice of a stack": (lambda x, w: nn.functional.linear(x, w[1]), (2, D, 48), 1),
}


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_the_axis_of_a_bare_parameter_is_measured(name: str) -> None:
    product, shape, axis = PRODUCTS[name]
    torch.manual_seed(0)
    model = Raw(product, *shape).eval()
    assert written(only_stream(model, torch.randint(0, 20, (2, 5))))["down"] == axis


def test_a_weight_that_is_computed_is_a_writer_with_a_reason() -> None:
    model = Raw(lambda x, w: x @ (w / w.norm()), 48, D).eval()
    stream = only_stream(model, torch.randint(0, 20, (2, 5)))
    assert [w.reason for w in stream.writers if w.reason] == [
        "its weight is computed from other parameters"
    ]


def test_a_post_norm_is_a_writer_of_what_the_next_one_reads() -> None:
    model = made("BertModel", **LEGACY)
    streams = streams_of(trace(model, IDS), model)
    behind = {w.path for s in streams for w in s.writers if w.kind == "norm"}
    assert "encoder.layer.0.attention.output.LayerNorm" in behind


def test_a_module_that_is_no_norm_is_none() -> None:
    model = tiny_lm.load("rms-swiglu")
    found = norms_of(trace(model, tiny_lm.held_back(count=1, length=16)[0]), model)
    assert {n.path.rsplit(".", 1)[-1] for n in found} == {"attn_norm", "ffn_norm", "norm"}
    assert {n.norm.kind for n in found} == {"rmsnorm"}


def test_the_matrices_behind_a_norm_are_named_with_their_input_axis() -> None:
    model = made("GPT2LMHeadModel", **LEGACY, n_embd=D, n_layer=2, n_head=4)
    graph = trace(model, IDS)
    (stream,) = streams_of(graph, model)
    by_path = {n.path: n.passes[0][1] for n in stream.norms}
    (attention,), none = linear_readers(by_path["transformer.h.0.ln_1"], graph, model)
    assert (attention.weight, attention.axis) == ("transformer.h.0.attn.c_attn.weight", 0)
    assert attention.bias == "transformer.h.0.attn.c_attn.bias"
    assert none == ()
    (head,), _ = linear_readers(by_path["transformer.ln_f"], graph, model)
    assert (head.bias, head.slot) == ("", ("lm_head", "bias"))


def test_what_reads_a_norm_and_is_no_matrix_is_told() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up = nn.LayerNorm(D), nn.Linear(D, 48)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.up(y).sum() + y.tanh().sum()

    model = Two().eval()
    graph = trace(model, torch.randn(2, D))
    (norm,) = norms_of(graph, model)
    linears, others = linear_readers(norm.passes[0][1], graph, model)
    assert [linear.path for linear in linears] == ["up"]
    assert others == ("'tanh' in the model",)


class Masked(nn.Module):
    """A stream of which some rows, or channels, are replaced by `mask`."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.norm, self.mask = nn.Embedding(20, D), nn.LayerNorm(D), mask
        self.up, self.down = nn.Linear(D, 48), nn.Linear(48, D)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.mask(self.table(ids), (ids == 3)[..., None])
        return self.down(torch.relu(self.up(self.norm(x)))) + x


MASKS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "masked_fill": (lambda x, m: x.masked_fill(m, 0.0), ""),
    "masked_fill by keyword": (lambda x, m: x.masked_fill(mask=m, value=0.0), ""),
    "where": (lambda x, m: torch.where(m, 0.0, x), ""),
    "where of a tensor": (lambda x, m: x.where(~m, torch.zeros(D)), ""),
    "product": (lambda x, m: x * (~m).float(), ""),
    "filled": (lambda x, m: x.masked_fill(m, 1.0), "fills every channel with the same number"),
    "by channel": (lambda x, _: x.masked_fill(x > 1, 0.0), "masked channel by channel"),
    "gated": (lambda x, _: x * torch.arange(1.0, 1.0 + D), "multiplied channel by channel"),
    "inverse": (lambda x, m: (2.0 + m.float()) / x, "the inverse of a tensor"),
    "shifted by row": (lambda x, m: x + m.float(), "the same number is added"),
    "regrouped": (lambda x, _: x.flip(-1).roll(1, -1), "made by 'roll'"),
    "halves joined": (
        lambda x, _: torch.cat([x[..., 16:], x[..., :16]], -1),
        "joined by 'cat'",
    ),
}


@pytest.mark.parametrize("name", sorted(MASKS))
def test_what_keeps_a_mean_of_zero_is_gone_through_and_nothing_else(name: str) -> None:
    mask, reason = MASKS[name]
    torch.manual_seed(0)
    model = Masked(mask).eval()
    stream = only_stream(model, torch.tensor([[3, 4, 5, 3, 9]]))
    reasons = [writer.reason for writer in stream.writers if writer.reason]
    assert ("table.weight" in written(stream)) == (not reason or "added" in reason)
    assert bool(reasons) == bool(reason)
    assert all(reason in found for found in reasons)

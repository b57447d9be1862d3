"""Transformer classes built from tiny configurations, and the FFNs their code has.

The expectations were written by reading each model's source, never by running the tool.
`*` in a path stands for a number (a layer, an expert); `:first` and its kin for the part of
a fused projection. Gate is the branch that the activation is applied to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

Example = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Entering:
    """The norm whose output enters the FFN; `leaf` is the last part of its module's name."""

    kind: str = "none"
    leaf: str | None = None
    gain: str | None = None
    bias: bool = False
    eps: float | None = None


@dataclass(frozen=True, slots=True)
class Ffn:
    """A group of like FFNs: `count` blocks that differ in their numbers only."""

    kind: str
    activation: str
    norm: Entering
    gate: str | None
    up: str
    down: str
    d_model: int = 32
    d_ff: int = 48
    count: int = 2
    layout: str = "separate"
    experts: int = 0
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model class with a tiny configuration, an example input and the FFNs it has."""

    name: str
    model: str
    config: Mapping[str, Any]
    example: Example
    expected: tuple[Ffn, ...]
    config_class: str = ""
    unreadable: str = ""

    def build(
        self, *, dtype: torch.dtype = torch.float32, noise: float = 0.0
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Return the model in evaluation mode and an example; `noise` moves every vector."""
        torch.manual_seed(7)
        cls = getattr(transformers, self.model)
        made = getattr(transformers, self.config_class) if self.config_class else None
        config = (made or cls.config_class)(**self.config)
        model = cls(config).eval().to(dtype)
        if noise:
            disturb(model, noise)
        example = self.example()
        return model, {k: _cast(v, dtype) for k, v in example.items()}


def disturb(model: nn.Module, noise: float) -> None:
    """Add noise to norm weights and biases, which a fresh model has at one and zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 and parameter.is_floating_point():
                parameter.add_(noise * torch.randn_like(parameter))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value


# Norms


def rms(leaf: str = "post_attention_layernorm", eps: float = 1e-6, gain: str = "w") -> Entering:
    return Entering("rmsnorm", leaf, gain, bias=False, eps=eps)


def layer(
    leaf: str, eps: float = 1e-5, *, gain: str | None = "w", bias: bool = True
) -> Entering:
    return Entering("layernorm", leaf, gain, bias=bias, eps=eps)


NO_NORM = Entering()


# FFNs


def glu(where: str, norm: Entering, activation: str = "silu", **rest: Any) -> Ffn:
    """Three matrices under `where`; the names default to gate_proj, up_proj, down_proj."""
    names = {k: f"{where}.{rest.pop(k, k + '_proj')}" for k in ("gate", "up", "down")}
    return Ffn("glu", activation, norm, **names, **rest)


def fused(where: str, norm: Entering, activation: str = "silu", **rest: Any) -> Ffn:
    """Gate and up in one matrix, gate first."""
    matrix = rest.pop("matrix", "gate_up_proj")
    first, second = rest.pop("parts", ("first", "second"))
    rest = {"layout": "concatenated"} | rest
    return glu(
        where, norm, activation, gate=f"{matrix}:{first}", up=f"{matrix}:{second}", **rest
    )


def packed(where: str, norm: Entering, activation: str = "silu", **rest: Any) -> Ffn:
    """Experts in 3-D parameters, gate first."""
    rest = {"layout": "packed concatenated", "experts": 4, "down": "down_proj"} | rest
    return fused(where, norm, activation, **rest)


def mlp(where: str, norm: Entering, activation: str, up: str, down: str, **rest: Any) -> Ffn:
    """Two matrices under `where`."""
    return Ffn("mlp", activation, norm, None, f"{where}.{up}", f"{where}.{down}", **rest)


# Examples


def ids(length: int = 8, **more: Any) -> Example:
    def example() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        return {"input_ids": torch.randint(5, 60, (2, length), generator=generator)} | more

    return example


def both(length: int = 8) -> Example:
    """Return input_ids and decoder_input_ids."""

    def example() -> dict[str, Any]:
        encoder = ids(length)()["input_ids"]
        return {"input_ids": encoder, "decoder_input_ids": encoder.flip(1)[:, :6]}

    return example


def values(name: str, *shape: int, **more: Any) -> Example:
    """Return one float input of that shape."""

    def example() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        return {name: torch.randn(*shape, generator=generator)} | more

    return example


PIXELS = values("pixel_values", 2, 3, 16, 16)

# Configurations

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = SMALL | {"head_dim": 8}
MULTI = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
EXPERTS = HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2}
BERT = MULTI | {"type_vocab_size": 2}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
SEQ2SEQ: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "vocab_size": 64,
    "decoder_start_token_id": 0,
}
GPT: dict[str, Any] = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 64,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MLA = SMALL | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
AUDIO: dict[str, Any] = MULTI | {
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
WAVE = values("input_values", 2, 400)

MODEL = "model.layers.*.mlp"


def _llama(act: str, name: str, **config: Any) -> Architecture:
    more = {"hidden_act": act} | config
    eps = more.get("rms_norm_eps", 1e-6)
    group = glu(MODEL, rms(eps=eps), name)
    label = f"llama_{act}"
    return Architecture(label, "LlamaForCausalLM", SMALL | more, ids(), (group,))


def _first_dense(norm: Entering, shared: str = "shared_experts") -> tuple[Ffn, ...]:
    """Layer 0 is dense; layer 1 has four experts of 20 and shared ones of 40 in all."""
    return (
        glu(MODEL, norm, count=1),
        packed(f"{MODEL}.experts", norm, count=1, d_ff=20),
        glu(f"{MODEL}.{shared}", norm, count=1, d_ff=40),
    )


DECODERS: tuple[Architecture, ...] = (
    Architecture("llama", "LlamaForCausalLM", SMALL, ids(), (glu(MODEL, rms()),)),
    Architecture(
        "llama_biased",
        "LlamaForCausalLM",
        SMALL | {"mlp_bias": True, "rms_norm_eps": 1e-5},
        ids(),
        (glu(MODEL, rms(eps=1e-5)),),
    ),
    _llama("sigmoid", "sigmoid"),
    _llama("linear", "identity"),
    _llama("relu", "relu"),
    _llama("gelu", "gelu"),
    _llama("gelu_new", "gelu_tanh"),
    _llama("gelu_fast", "gelu_tanh"),
    _llama("quick_gelu", "quick_gelu"),
    _llama("relu2", "relu2"),
    _llama("tanh", "tanh"),
    _llama("mish", "mish"),
    Architecture("mistral", "MistralForCausalLM", HEADS, ids(), (glu(MODEL, rms()),)),
    Architecture("qwen2", "Qwen2ForCausalLM", SMALL, ids(), (glu(MODEL, rms()),)),
    Architecture("qwen3", "Qwen3ForCausalLM", HEADS, ids(), (glu(MODEL, rms()),)),
    Architecture(
        "gemma", "GemmaForCausalLM", HEADS, ids(), (glu(MODEL, rms(gain="1+w"), "gelu_tanh"),)
    ),
    Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        HEADS,
        ids(),
        (glu(MODEL, rms("pre_feedforward_layernorm", gain="1+w"), "gelu_tanh"),),
    ),
    Architecture(
        "gemma3",
        "Gemma3ForCausalLM",
        HEADS,
        ids(),
        (glu(MODEL, rms("pre_feedforward_layernorm", gain="1+w"), "gelu_tanh"),),
        "Gemma3TextConfig",
    ),
    Architecture(
        "gemma3n",
        "Gemma3nForCausalLM",
        HEADS
        | {
            "intermediate_size": [48, 48],
            "activation_sparsity_pattern": [0.0, 0.0],
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 8,
            "altup_num_inputs": 2,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        ids(),
        (glu(MODEL, rms("pre_feedforward_layernorm"), "gelu_tanh"),),
        "Gemma3nTextConfig",
    ),
    Architecture(
        "olmo",
        "OlmoForCausalLM",
        SMALL,
        ids(),
        (glu(MODEL, layer("post_attention_layernorm", gain=None, bias=False)),),
    ),
    Architecture("olmo2", "Olmo2ForCausalLM", SMALL, ids(), (glu(MODEL, NO_NORM),)),
    Architecture(
        "cohere",
        "CohereForCausalLM",
        SMALL,
        ids(),
        (glu(MODEL, layer("input_layernorm", bias=False)),),
    ),
    Architecture(
        "cohere2",
        "Cohere2ForCausalLM",
        HEADS,
        ids(),
        (glu(MODEL, layer("input_layernorm", bias=False)),),
    ),
    Architecture("glm", "GlmForCausalLM", HEADS, ids(), (fused(MODEL, rms(eps=1.5625e-7)),)),
    Architecture("glm4", "Glm4ForCausalLM", HEADS, ids(), (fused(MODEL, rms(eps=1.5625e-7)),)),
    Architecture("helium", "HeliumForCausalLM", HEADS, ids(), (glu(MODEL, rms(eps=1e-8)),)),
    Architecture("smollm3", "SmolLM3ForCausalLM", SMALL, ids(), (glu(MODEL, rms()),)),
    Architecture("granite", "GraniteForCausalLM", SMALL, ids(), (glu(MODEL, rms()),)),
    Architecture(
        "starcoder2",
        "Starcoder2ForCausalLM",
        SMALL,
        ids(),
        (mlp(MODEL, layer("post_attention_layernorm"), "gelu_tanh", "c_fc", "c_proj"),),
    ),
    Architecture(
        "stablelm",
        "StableLmForCausalLM",
        SMALL,
        ids(),
        (glu(MODEL, layer("post_attention_layernorm")),),
    ),
    Architecture(
        "stablelm_parallel",
        "StableLmForCausalLM",
        SMALL | {"use_parallel_residual": True},
        ids(),
        (glu(MODEL, layer("input_layernorm")),),
    ),
    Architecture("exaone4", "Exaone4ForCausalLM", HEADS, ids(), (glu(MODEL, NO_NORM),)),
    Architecture("seed_oss", "SeedOssForCausalLM", HEADS, ids(), (glu(MODEL, rms()),)),
    Architecture(
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        HEADS,
        ids(),
        (glu(MODEL, rms(eps=1e-5)),),
    ),
    Architecture("phi3", "Phi3ForCausalLM", SMALL, ids(), (fused(MODEL, rms(eps=1e-5)),)),
    Architecture("ernie4_5", "Ernie4_5ForCausalLM", HEADS, ids(), (glu(MODEL, rms(eps=1e-5)),)),
    Architecture(
        "arcee",
        "ArceeForCausalLM",
        HEADS,
        ids(),
        (mlp(MODEL, rms(eps=1e-5), "relu2", "up_proj", "down_proj"),),
    ),
    Architecture(
        "apertus",
        "ApertusForCausalLM",
        SMALL,
        ids(),
        (mlp(MODEL, rms("feedforward_layernorm", 1e-5), "xielu", "up_proj", "down_proj"),),
    ),
    Architecture(
        "bitnet", "BitNetForCausalLM", SMALL, ids(), (glu(MODEL, rms(eps=1e-5), "relu2"),)
    ),
    Architecture(
        "nemotron",
        "NemotronForCausalLM",
        HEADS,
        ids(),
        (
            mlp(
                MODEL,
                layer("post_attention_layernorm", gain="1+w"),
                "relu2",
                "up_proj",
                "down_proj",
            ),
        ),
    ),
    Architecture(
        "persimmon",
        "PersimmonForCausalLM",
        MULTI,
        ids(),
        (
            mlp(
                MODEL,
                layer("post_attention_layernorm"),
                "relu2",
                "dense_h_to_4h",
                "dense_4h_to_h",
            ),
        ),
    ),
    Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        GPT,
        ids(),
        (mlp("transformer.h.*.mlp", layer("ln_2"), "gelu_tanh", "c_fc", "c_proj"),),
    ),
    Architecture(
        "gpt_neo",
        "GPTNeoForCausalLM",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": 64,
            "window_size": 8,
            "max_position_embeddings": 64,
        },
        ids(),
        (mlp("transformer.h.*.mlp", layer("ln_2"), "gelu_tanh", "c_fc", "c_proj"),),
    ),
    Architecture(
        "gptj",
        "GPTJForCausalLM",
        GPT | {"rotary_dim": 4},
        ids(),
        (mlp("transformer.h.*.mlp", layer("ln_1"), "gelu_tanh", "fc_in", "fc_out"),),
    ),
    Architecture(
        "codegen",
        "CodeGenForCausalLM",
        GPT | {"rotary_dim": 4, "n_ctx": 64},
        ids(),
        (mlp("transformer.h.*.mlp", layer("ln_1"), "gelu_tanh", "fc_in", "fc_out"),),
    ),
    Architecture(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        MULTI,
        ids(),
        (
            mlp(
                "gpt_neox.layers.*.mlp",
                layer("post_attention_layernorm"),
                "gelu",
                "dense_h_to_4h",
                "dense_4h_to_h",
            ),
        ),
    ),
    Architecture(
        "opt",
        "OPTForCausalLM",
        MULTI | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        ids(),
        (mlp("model.decoder.layers.*", layer("final_layer_norm"), "relu", "fc1", "fc2"),),
    ),
    Architecture(
        "opt_350m",
        "OPTForCausalLM",
        MULTI | {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        ids(),
        (mlp("model.decoder.layers.*", layer("self_attn_layer_norm"), "relu", "fc1", "fc2"),),
    ),
    # Its GELU runs inside a torch.autograd.Function, which is told and not guessed.
    Architecture(
        "bloom",
        "BloomForCausalLM",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64},
        ids(),
        (),
        unreadable="autograd function",
    ),
    Architecture(
        "falcon",
        "FalconForCausalLM",
        MULTI | {"ffn_hidden_size": 48},
        ids(),
        (
            mlp(
                "transformer.h.*.mlp",
                layer("input_layernorm"),
                "gelu",
                "dense_h_to_4h",
                "dense_4h_to_h",
            ),
        ),
    ),
    Architecture(
        "falcon_new",
        "FalconForCausalLM",
        MULTI | {"ffn_hidden_size": 48, "new_decoder_architecture": True, "num_kv_heads": 2},
        ids(),
        (
            mlp(
                "transformer.h.*.mlp", layer("ln_mlp"), "gelu", "dense_h_to_4h", "dense_4h_to_h"
            ),
        ),
    ),
    Architecture(
        "phi",
        "PhiForCausalLM",
        MULTI,
        ids(),
        (mlp(MODEL, layer("input_layernorm"), "gelu_tanh", "fc1", "fc2"),),
    ),
    Architecture(
        "biogpt",
        "BioGptForCausalLM",
        MULTI,
        ids(),
        (mlp("biogpt.layers.*", layer("final_layer_norm"), "gelu", "fc1", "fc2"),),
    ),
    Architecture(
        "xglm",
        "XGLMForCausalLM",
        {
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": 64,
        },
        ids(),
        (mlp("model.layers.*", layer("final_layer_norm"), "gelu", "fc1", "fc2"),),
    ),
    Architecture(
        "imagegpt",
        "ImageGPTForCausalImageModeling",
        GPT,
        ids(),
        (mlp("transformer.h.*.mlp", rms("ln_2", 1e-5), "quick_gelu", "c_fc", "c_proj"),),
    ),
    Architecture(
        "openai_gpt",
        "OpenAIGPTLMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 64},
        ids(),
        (mlp("transformer.h.*.mlp", layer("ln_1"), "gelu_tanh", "c_fc", "c_proj", d_ff=128),),
    ),
    Architecture(
        "ctrl",
        "CTRLLMHeadModel",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "dff": 48,
            "n_positions": 64,
            "vocab_size": 64,
        },
        ids(),
        (mlp("transformer.h.*.ffn", layer("layernorm2", 1e-6), "relu", "0", "2"),),
    ),
    Architecture(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        GPT,
        ids(),
        (mlp("transformer.h.*.mlp", layer("ln_2"), "gelu_tanh", "c_fc", "c_proj"),),
    ),
    Architecture(
        "mpt",
        "MptForCausalLM",
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "vocab_size": 64},
        ids(),
        (
            mlp(
                "transformer.blocks.*.ffn",
                layer("norm_2", bias=False),
                "gelu",
                "up_proj",
                "down_proj",
                d_ff=128,
            ),
        ),
    ),
)

MIXTURES: tuple[Architecture, ...] = (
    Architecture(
        "mixtral",
        "MixtralForCausalLM",
        EXPERTS,
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5)),),
    ),
    Architecture(
        "mixtral_eager",
        "MixtralForCausalLM",
        EXPERTS | {"experts_implementation": "eager"},
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5)),),
    ),
    Architecture(
        "mixtral_batched",
        "MixtralForCausalLM",
        EXPERTS | {"experts_implementation": "batched_mm"},
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5)),),
    ),
    Architecture(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        SMALL
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [0],
        },
        ids(),
        _first_dense(rms(), "shared_expert"),
    ),
    Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        HEADS | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
        ids(),
        (packed(f"{MODEL}.experts", rms(), d_ff=20),),
    ),
    Architecture(
        "olmoe",
        "OlmoeForCausalLM",
        SMALL | {"num_experts": 4, "num_experts_per_tok": 2},
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5)),),
    ),
    Architecture(
        "hunyuan_v1_moe",
        "HunYuanMoEV1ForCausalLM",
        HEADS | {"num_experts": 4, "moe_topk": 2},
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5)), glu(f"{MODEL}.shared_mlp", rms(eps=1e-5))),
    ),
    Architecture(
        "phimoe",
        "PhimoeForCausalLM",
        EXPERTS,
        ids(),
        (packed(f"{MODEL}.experts", layer("post_attention_layernorm")),),
    ),
    Architecture("deepseek_v2", "DeepseekV2ForCausalLM", MLA, ids(), _first_dense(rms())),
    Architecture("deepseek_v3", "DeepseekV3ForCausalLM", MLA, ids(), _first_dense(rms())),
    Architecture(
        "gpt_oss",
        "GptOssForCausalLM",
        EXPERTS | {"sliding_window": 8},
        ids(),
        (
            packed(
                f"{MODEL}.experts",
                rms(eps=1e-5),
                "gpt_oss_swiglu",
                parts=("even", "odd"),
                layout="packed interleaved",
            ),
        ),
    ),
    Architecture(
        "llama4",
        "Llama4ForCausalLM",
        EXPERTS
        | {
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 56,
            "interleave_moe_layer_step": 2,
        },
        ids(),
        (
            glu("model.layers.*.feed_forward", rms(eps=1e-5), count=1, d_ff=56),
            packed("model.layers.*.feed_forward.experts", rms(eps=1e-5), count=1),
            glu("model.layers.*.feed_forward.shared_expert", rms(eps=1e-5), count=1),
        ),
        "Llama4TextConfig",
    ),
    Architecture(
        "dbrx",
        "DbrxForCausalLM",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "vocab_size": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            "ffn_config": {
                "hidden_size": 32,
                "ffn_hidden_size": 48,
                "moe_num_experts": 4,
                "moe_top_k": 2,
            },
        },
        ids(),
        (
            glu(
                "transformer.blocks.*.ffn.experts.mlp",
                layer("norm_2", bias=False),
                gate="w1",
                up="v1",
                down="w2",
                experts=4,
                layout="packed separate",
            ),
        ),
    ),
    Architecture(
        "granitemoe",
        "GraniteMoeForCausalLM",
        SMALL | {"num_local_experts": 4},
        ids(),
        (packed("model.layers.*.block_sparse_moe.experts", rms()),),
    ),
    Architecture(
        "granitemoeshared",
        "GraniteMoeSharedForCausalLM",
        SMALL | {"num_local_experts": 4, "shared_intermediate_size": 40},
        ids(),
        (
            packed("model.layers.*.block_sparse_moe.experts", rms()),
            fused(
                "model.layers.*.shared_mlp",
                rms(),
                matrix="input_linear",
                down="output_linear",
                d_ff=40,
            ),
        ),
    ),
    Architecture(
        "jamba",
        "JambaForCausalLM",
        SMALL
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
        ids(),
        (
            glu("model.layers.*.feed_forward", rms("pre_ff_layernorm"), count=1),
            packed("model.layers.*.feed_forward.experts", rms("pre_ff_layernorm"), count=1),
        ),
    ),
    Architecture(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        HEADS
        | {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 2,
            "moe_intermediate_size": 20,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 1,
        },
        ids(),
        _first_dense(rms(eps=1e-5)),
    ),
    Architecture(
        "glm4_moe",
        "Glm4MoeForCausalLM",
        HEADS
        | {k: v for k, v in MLA.items() if "expert" in k or "moe" in k or "group" in k}
        | {"first_k_dense_replace": 1},
        ids(),
        _first_dense(rms(eps=1e-5)),
    ),
    Architecture(
        "minimax",
        "MiniMaxForCausalLM",
        EXPERTS | {"block_size": 8},
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5)),),
    ),
    Architecture(
        "minimax_m2",
        "MiniMaxM2ForCausalLM",
        EXPERTS | {"rotary_dim": 8},
        ids(),
        (packed(f"{MODEL}.experts", rms()),),
    ),
)

POST = layer("LayerNorm", 1e-12)


def _bert(prefix: str, norm: Entering = POST) -> tuple[Ffn, ...]:
    where = f"{prefix}encoder.layer.*"
    return (mlp(where, norm, "gelu", "intermediate.dense", "output.dense"),)


def _pair(
    encoder: Entering, decoder: Entering, activation: str = "gelu", prefix: str = ""
) -> tuple[Ffn, ...]:
    """fc1 and fc2 inline in the layers of an encoder and a decoder."""
    return (
        mlp(f"{prefix}encoder.layers.*", encoder, activation, "fc1", "fc2"),
        mlp(f"{prefix}decoder.layers.*", decoder, activation, "fc1", "fc2"),
    )


def _t5(activation: str, *, gated: bool) -> tuple[Ffn, ...]:
    norm = rms("layer_norm")
    places = (
        "encoder.block.*.layer.1.DenseReluDense",
        "decoder.block.*.layer.2.DenseReluDense",
    )
    if gated:
        return tuple(
            glu(p, norm, activation, gate="wi_0", up="wi_1", down="wo") for p in places
        )
    return tuple(mlp(p, norm, activation, "wi", "wo") for p in places)


def _speech(leaf: str) -> tuple[Ffn, ...]:
    where = "encoder.layers.*.feed_forward"
    return (mlp(where, layer(leaf), "gelu", "intermediate_dense", "output_dense"),)


ENCODERS: tuple[Architecture, ...] = (
    Architecture("bert", "BertForMaskedLM", BERT, ids(), _bert("bert.")),
    Architecture("bert_pooled", "BertForSequenceClassification", BERT, ids(), _bert("bert.")),
    Architecture("roberta", "RobertaForMaskedLM", BERT, ids(), _bert("roberta.")),
    Architecture("electra", "ElectraModel", BERT | {"embedding_size": 16}, ids(), _bert("")),
    Architecture(
        "distilbert",
        "DistilBertModel",
        {
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": 64,
        },
        ids(),
        (
            mlp(
                "transformer.layer.*.ffn", layer("sa_layer_norm", 1e-12), "gelu", "lin1", "lin2"
            ),
        ),
    ),
    Architecture(
        "albert",
        "AlbertModel",
        BERT | {"embedding_size": 16},
        ids(),
        (
            mlp(
                "encoder.albert_layer_groups.0.albert_layers.0",
                POST,
                "gelu_tanh",
                "ffn",
                "ffn_output",
                count=1,
            ),
        ),
    ),
    Architecture(
        "esm",
        "EsmModel",
        MULTI | {"position_embedding_type": "rotary", "mask_token_id": 4},
        ids(),
        _bert(""),
    ),
    Architecture(
        "convbert",
        "ConvBertModel",
        BERT | {"embedding_size": 32, "conv_kernel_size": 3},
        ids(),
        _bert(""),
    ),
    Architecture(
        "longformer", "LongformerModel", BERT | {"attention_window": [4, 4]}, ids(), _bert("")
    ),
    Architecture(
        "deberta_v2", "DebertaV2Model", BERT, ids(), _bert("", layer("LayerNorm", 1e-7))
    ),
    Architecture("mpnet", "MPNetModel", MULTI, ids(), _bert("")),
    Architecture(
        "squeezebert",
        "SqueezeBertModel",
        BERT
        | {
            "embedding_size": 32,
            "q_groups": 1,
            "k_groups": 1,
            "v_groups": 1,
            "post_attention_groups": 1,
            "intermediate_groups": 1,
            "output_groups": 1,
        },
        ids(),
        (
            mlp(
                "encoder.layers.*",
                layer("layernorm", 1e-12),
                "gelu",
                "intermediate.conv1d",
                "output.conv1d",
            ),
        ),
    ),
    Architecture(
        "funnel",
        "FunnelModel",
        {
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 48,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "vocab_size": 64,
        },
        ids(),
        (
            mlp(
                "encoder.blocks.*.*.ffn",
                layer("layer_norm", 1e-9),
                "gelu_tanh",
                "linear_1",
                "linear_2",
            ),
            mlp(
                "decoder.layers.*.ffn",
                layer("layer_norm", 1e-9),
                "gelu_tanh",
                "linear_1",
                "linear_2",
                count=1,
            ),
        ),
    ),
    Architecture(
        "xlnet",
        "XLNetModel",
        {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 64},
        ids(),
        (mlp("layer.*.ff", layer("layer_norm", 1e-12), "gelu", "layer_1", "layer_2"),),
    ),
    Architecture(
        "modernbert",
        "ModernBertModel",
        MULTI | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 4},
        ids(),
        (fused("layers.*.mlp", layer("mlp_norm", bias=False), "gelu", matrix="Wi", down="Wo"),),
    ),
    Architecture(
        "nomic_bert",
        "NomicBertModel",
        BERT | {"head_dim": 8},
        ids(),
        (glu("layers.*.mlp", layer("post_attention_layernorm", 1e-12)),),
    ),
    Architecture(
        "vit",
        "ViTModel",
        VISION,
        PIXELS,
        (mlp("layers.*.mlp", layer("layernorm_after", 1e-12), "gelu", "fc1", "fc2"),),
    ),
    Architecture(
        "clip",
        "CLIPModel",
        {"text_config": MULTI, "vision_config": VISION, "projection_dim": 16},
        lambda: ids()() | PIXELS(),
        tuple(
            mlp(
                f"{tower}.encoder.layers.*.mlp",
                layer("layer_norm2"),
                "quick_gelu",
                "fc1",
                "fc2",
            )
            for tower in ("text_model", "vision_model")
        ),
    ),
    Architecture(
        "dinov2",
        "Dinov2Model",
        VISION | {"mlp_ratio": 2},
        PIXELS,
        (mlp("encoder.layer.*.mlp", layer("norm2", 1e-6), "gelu", "fc1", "fc2", d_ff=64),),
    ),
    Architecture(
        "dinov2_swiglu",
        "Dinov2Model",
        VISION | {"mlp_ratio": 2, "use_swiglu_ffn": True},
        PIXELS,
        (glu("encoder.layer.*.mlp", layer("norm2", 1e-6)),),
    ),
    Architecture(
        "siglip_vision",
        "SiglipVisionModel",
        VISION,
        PIXELS,
        (
            mlp("encoder.layers.*.mlp", layer("layer_norm2", 1e-6), "gelu_tanh", "fc1", "fc2"),
            mlp("head.mlp", layer("layernorm", 1e-6), "gelu_tanh", "fc1", "fc2", count=1),
        ),
    ),
    Architecture(
        "swin",
        "SwinModel",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
            "mlp_ratio": 2.0,
        },
        PIXELS,
        tuple(
            mlp(
                f"encoder.layers.{n}.blocks.0.mlp",
                layer("layernorm_after"),
                "gelu",
                "fc1",
                "fc2",
                d_model=width,
                d_ff=2 * width,
                count=1,
            )
            for n, width in enumerate((16, 32))
        ),
    ),
    Architecture(
        "whisper",
        "WhisperModel",
        SEQ2SEQ | {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16},
        lambda: (
            values("input_features", 2, 8, 16)() | {"decoder_input_ids": ids(6)()["input_ids"]}
        ),
        _pair(layer("final_layer_norm"), layer("final_layer_norm")),
    ),
    Architecture("wav2vec2", "Wav2Vec2Model", AUDIO, WAVE, _speech("layer_norm")),
    Architecture(
        "wav2vec2_stable",
        "Wav2Vec2Model",
        AUDIO | {"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
        WAVE,
        _speech("final_layer_norm"),
    ),
    Architecture("hubert", "HubertModel", AUDIO, WAVE, _speech("layer_norm")),
    Architecture(
        "bart",
        "BartModel",
        SEQ2SEQ,
        both(),
        _pair(layer("self_attn_layer_norm"), layer("encoder_attn_layer_norm")),
    ),
    Architecture(
        "mbart",
        "MBartModel",
        SEQ2SEQ,
        both(),
        _pair(layer("final_layer_norm"), layer("final_layer_norm")),
    ),
    Architecture(
        "marian",
        "MarianMTModel",
        SEQ2SEQ | {"activation_function": "silu"},
        both(),
        _pair(
            layer("self_attn_layer_norm"), layer("encoder_attn_layer_norm"), "silu", "model."
        ),
    ),
    Architecture(
        "pegasus",
        "PegasusModel",
        SEQ2SEQ | {"activation_function": "relu"},
        both(),
        _pair(layer("final_layer_norm"), layer("final_layer_norm"), "relu"),
    ),
    Architecture("t5", "T5ForConditionalGeneration", T5, both(), _t5("relu", gated=False)),
    Architecture(
        "t5_v1_1",
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu"},
        both(),
        _t5("gelu_tanh", gated=True),
    ),
    Architecture("mt5", "MT5Model", T5, both(), _t5("gelu_tanh", gated=True)),
    Architecture("umt5", "UMT5Model", T5, both(), _t5("gelu_tanh", gated=True)),
    Architecture(
        "moonshine",
        "MoonshineModel",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": 64,
        },
        lambda: (
            values("input_values", 2, 4000)() | {"decoder_input_ids": ids(6)()["input_ids"]}
        ),
        (
            mlp(
                "encoder.layers.*.mlp",
                layer("post_attention_layernorm", bias=False),
                "gelu",
                "fc1",
                "fc2",
            ),
            fused(
                "decoder.layers.*.mlp",
                layer("final_layernorm", bias=False),
                matrix="fc1",
                parts=("second", "first"),
                down="fc2",
            ),
        ),
    ),
)

MIXERS: tuple[Architecture, ...] = (
    Architecture(
        "mamba",
        "MambaForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, "state_size": 4},
        ids(),
        (),
    ),
    Architecture(
        "mamba2",
        "Mamba2ForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 64,
            "state_size": 4,
            "num_heads": 8,
            "head_dim": 8,
            "expand": 2,
            "n_groups": 1,
            "chunk_size": 4,
        },
        ids(),
        (),
    ),
    # The channel mix is a squared-ReLU MLP of a token-shifted input whose output is gated:
    # near an FFN, so both readings are right as long as the time mix is not one. What enters
    # it is a blend of two tokens' normed vectors, not the output of a norm.
    Architecture(
        "rwkv",
        "RwkvForCausalLM",
        {
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "vocab_size": 64,
            "context_length": 64,
        },
        ids(),
        (
            mlp(
                "rwkv.blocks.*.feed_forward",
                NO_NORM,
                "relu2",
                "key",
                "value",
                optional=True,
            ),
        ),
    ),
)

ARCHITECTURES: tuple[Architecture, ...] = DECODERS + MIXTURES + ENCODERS + MIXERS

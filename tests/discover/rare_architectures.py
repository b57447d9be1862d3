"""More transformer classes: hybrids, unusual mixtures, shared and nested FFNs, BERT's kin.

As in the main table, every expectation was read in the model's source.
"""

from typing import Any

from tests.discover.architectures import (
    AUDIO,
    BERT,
    EXPERTS,
    HEADS,
    MLA,
    MODEL,
    MULTI,
    NO_NORM,
    PIXELS,
    POST,
    SEQ2SEQ,
    SMALL,
    T5,
    VISION,
    WAVE,
    Architecture,
    Entering,
    Ffn,
    both,
    fused,
    glu,
    ids,
    layer,
    mlp,
    packed,
    rms,
    values,
)

CONV_THEN_ATTENTION = {"layer_types": ["conv", "full_attention"]}
LINEAR_THEN_FULL = {"layer_types": ["linear_attention", "full_attention"]}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
DELTA: dict[str, Any] = LINEAR_THEN_FULL | {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SHARED_AND_ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
FEED = "model.layers.*.feed_forward"
W123 = {"gate": "w1", "up": "w3", "down": "w2"}

HYBRIDS: tuple[Architecture, ...] = (
    Architecture(
        "lfm2",
        "Lfm2ForCausalLM",
        SMALL | CONV_THEN_ATTENTION | {"block_auto_adjust_ff_dim": False},
        ids(),
        (glu(FEED, rms("ffn_norm", 1e-5), **W123),),
    ),
    Architecture(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        SMALL | CONV_THEN_ATTENTION | SHARED_AND_ROUTED | {"num_dense_layers": 1},
        ids(),
        (
            glu(FEED, rms("ffn_norm", 1e-5), count=1, **W123),
            packed(f"{FEED}.experts", rms("ffn_norm", 1e-5), count=1, d_ff=20),
        ),
    ),
    Architecture(
        "bamba",
        "BambaForCausalLM",
        SMALL | MAMBA | {"attn_layer_indices": [1]},
        ids(),
        (glu(FEED, rms("pre_ff_layernorm", 1e-5)),),
    ),
    Architecture(
        "falcon_h1",
        "FalconH1ForCausalLM",
        SMALL | MAMBA | {"mamba_d_ssm": 64, "mlp_multipliers": [2.0, 0.5]},
        ids(),
        (glu(FEED, rms("pre_ff_layernorm", 1e-5)),),
    ),
    Architecture(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        SMALL
        | MAMBA
        | LINEAR_THEN_FULL
        | {"num_local_experts": 4, "shared_intermediate_size": 40},
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
        "nemotron_h",
        "NemotronHForCausalLM",
        HEADS
        | {
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"],
            "num_hidden_layers": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 4,
            "chunk_size": 4,
            "n_groups": 1,
            "n_routed_experts": 4,
            "moe_intermediate_size": 20,
            "moe_shared_expert_intermediate_size": 40,
        },
        ids(),
        (
            mlp(
                "model.layers.*.mixer",
                rms("norm", 1e-5),
                "relu2",
                "up_proj",
                "down_proj",
                count=1,
            ),
            mlp(
                "model.layers.*.mixer.experts",
                rms("norm", 1e-5),
                "relu2",
                "up_proj",
                "down_proj",
                count=1,
                d_ff=20,
                experts=4,
                layout="packed separate",
            ),
            mlp(
                "model.layers.*.mixer.shared_experts",
                rms("norm", 1e-5),
                "relu2",
                "up_proj",
                "down_proj",
                count=1,
                d_ff=40,
            ),
        ),
    ),
    Architecture(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        HEADS
        | DELTA
        | SHARED_AND_ROUTED
        | {"shared_expert_intermediate_size": 40, "mlp_only_layers": [0]},
        ids(),
        (
            glu(MODEL, rms(gain="1+w"), count=1),
            packed(f"{MODEL}.experts", rms(gain="1+w"), count=1, d_ff=20),
            glu(f"{MODEL}.shared_expert", rms(gain="1+w"), count=1, d_ff=40),
        ),
    ),
    Architecture(
        "qwen3_5",
        "Qwen3_5ForCausalLM",
        HEADS | DELTA,
        ids(),
        (glu(MODEL, rms(gain="1+w")),),
        "Qwen3_5TextConfig",
    ),
    Architecture(
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        SMALL
        | {
            "intermediate_size": 96,
            "lru_width": 32,
            "attention_window_size": 16,
            "block_types": ["recurrent", "attention"],
        },
        ids(),
        (glu("model.layers.*.mlp_block", rms("channel_pre_norm", gain="1+w"), "gelu_tanh"),),
    ),
    Architecture(
        "xlstm",
        "xLSTMForCausalLM",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "vocab_size": 64,
            "ffn_proj_factor": 1.5,
            "ffn_round_up_to_multiple_of": 8,
            "chunk_size": 4,
            "qk_dim_factor": 1.0,
        },
        ids(),
        (
            glu(
                "backbone.blocks.*.ffn",
                rms("norm_ffn"),
                gate="proj_up_gate",
                up="proj_up",
                down="proj_down",
                d_model=64,
                d_ff=96,
            ),
        ),
    ),
    Architecture(
        "zamba2",
        "Zamba2ForCausalLM",
        SMALL
        | {
            "num_key_value_heads": 4,
            "num_hidden_layers": 2,
            "layers_block_type": ["mamba", "hybrid"],
            "mamba_d_state": 4,
            "n_mamba_heads": 8,
            "mamba_ngroups": 1,
            "chunk_size": 4,
            "num_mem_blocks": 1,
            "adapter_rank": 4,
            "use_mem_rope": True,
        },
        ids(),
        (
            fused(
                "model.layers.*.shared_transformer.feed_forward",
                rms("pre_ff_layernorm", 1e-5),
                "gelu",
                count=1,
            ),
        ),
    ),
)

DECODERS: tuple[Architecture, ...] = (
    Architecture(
        "nanochat",
        "NanoChatForCausalLM",
        SMALL,
        ids(),
        (
            mlp(
                MODEL,
                Entering("rmsnorm", "post_attention_layernorm", None, eps=1e-6),
                "relu2",
                "fc1",
                "fc2",
            ),
        ),
    ),
    Architecture(
        "diffllama", "DiffLlamaForCausalLM", HEADS, ids(), (glu(MODEL, rms(eps=1e-5)),)
    ),
    Architecture("doge", "DogeForCausalLM", SMALL, ids(), (glu(MODEL, rms()),)),
    Architecture("olmo3", "Olmo3ForCausalLM", SMALL, ids(), (glu(MODEL, NO_NORM),)),
    Architecture(
        "gpt_neox_japanese",
        "GPTNeoXJapaneseForCausalLM",
        MULTI,
        ids(),
        (
            mlp(
                "gpt_neox_japanese.layers.*.mlp",
                layer("post_attention_layernorm"),
                "gelu",
                "dense_h_to_4h",
                "dense_4h_to_h",
                d_ff=128,
            ),
        ),
    ),
    Architecture(
        "moshi",
        "MoshiForCausalLM",
        HEADS | {"ffn_dim": 96, "sliding_window": 16},
        ids(),
        (fused(MODEL, rms(eps=1e-8), matrix="fc1", down="fc2"),),
    ),
    Architecture(
        "pix2struct_text",
        "Pix2StructTextModel",
        {
            "hidden_size": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 64,
            "is_decoder": True,
            "initializer_range": 0.02,
        },
        ids(),
        (
            glu(
                "layer.*.mlp.DenseReluDense",
                rms("layer_norm"),
                "gelu_tanh",
                gate="wi_0",
                up="wi_1",
                down="wo",
            ),
        ),
    ),
)

MIXTURES: tuple[Architecture, ...] = (
    Architecture(
        "jetmoe",
        "JetMoeForCausalLM",
        {k: v for k, v in EXPERTS.items() if k not in ("num_attention_heads", "head_dim")}
        | {"kv_channels": 8},
        ids(),
        (packed(MODEL, rms(), matrix="input_linear", down="output_linear"),),
    ),
    Architecture(
        "afmoe",
        "AfmoeForCausalLM",
        HEADS | SHARED_AND_ROUTED | {"num_shared_experts": 2, "num_dense_layers": 1},
        ids(),
        (
            glu(MODEL, rms("pre_mlp_layernorm", 1e-5), count=1),
            packed(f"{MODEL}.experts", rms("pre_mlp_layernorm", 1e-5), count=1, d_ff=20),
            glu(f"{MODEL}.shared_experts", rms("pre_mlp_layernorm", 1e-5), count=1, d_ff=40),
        ),
    ),
    Architecture(
        "flex_olmo",
        "FlexOlmoForCausalLM",
        SMALL | {"num_experts": 4, "num_experts_per_tok": 2},
        ids(),
        (packed(f"{MODEL}.experts", NO_NORM),),
    ),
    Architecture(
        "longcat_flash",
        "LongcatFlashForCausalLM",
        {k: v for k, v in MLA.items() if k not in ("num_hidden_layers", "intermediate_size")}
        | {
            "num_layers": 1,
            "ffn_hidden_size": 48,
            "expert_ffn_hidden_size": 20,
            "zero_expert_num": 2,
            "moe_topk": 3,
            "head_dim": 8,
        },
        ids(16),
        (
            packed(f"{MODEL}.experts", rms("*", 1e-5), count=1, d_ff=20),
            glu("model.layers.*.mlps.*", rms("*", 1e-5)),
        ),
    ),
    Architecture(
        "zaya",
        "ZayaForCausalLM",
        HEADS | SHARED_AND_ROUTED | {"num_experts_per_tok": 1, "router_hidden_size": 16},
        ids(),
        (packed(f"{MODEL}.experts", rms(eps=1e-5), d_ff=20),),
    ),
    Architecture(
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        {k: v for k, v in SMALL.items() if k != "intermediate_size"}
        | {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "q_lora_rank": 8,
            "o_lora_rank": 8,
            "o_groups": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "sliding_window": 8,
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_topk": 4,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 2,
            "mlp_layer_types": ["hash_moe", "moe"],
            "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
            "compress_rates": {
                "compressed_sparse_attention": 2,
                "heavily_compressed_attention": 4,
            },
        },
        ids(),
        (
            packed(f"{MODEL}.experts", rms(), "clamped_swiglu"),
            glu(f"{MODEL}.shared_experts", rms(), "clamped_swiglu"),
        ),
    ),
    Architecture(
        "step3p7",
        "Step3p7TextModel",
        HEADS
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "share_expert_dim": 40,
            "mlp_layer_types": ["dense", "sparse"],
            "sliding_window": 16,
            "swiglu_limits": [None, 16.0],
            "swiglu_limits_shared": [None, 16.0],
        },
        ids(),
        (
            glu("layers.*.mlp", rms(gain="1+w", eps=1e-5), count=1),
            packed(
                "layers.*.mlp.experts",
                rms(gain="1+w", eps=1e-5),
                "post_clamped_swiglu",
                count=1,
                d_ff=20,
            ),
            glu(
                "layers.*.mlp.shared_experts",
                rms(gain="1+w", eps=1e-5),
                "post_clamped_swiglu",
                count=1,
                d_ff=40,
            ),
        ),
    ),
    Architecture(
        "switch",
        "SwitchTransformersModel",
        T5
        | {
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "router_jitter_noise": 0.0,
        },
        both(),
        tuple(
            mlp(
                f"{where}{inside}",
                rms("layer_norm"),
                "relu",
                "wi",
                "wo",
                count=1,
                experts=experts,
            )
            for where in ("encoder.block.*.layer.1.mlp", "decoder.block.*.layer.2.mlp")
            for inside, experts in (("", 0), (".experts.expert_*", 4))
        ),
    ),
    Architecture(
        "nllb_moe",
        "NllbMoeModel",
        SEQ2SEQ
        | {
            "num_experts": 4,
            "encoder_sparse_step": 2,
            "decoder_sparse_step": 2,
            "expert_capacity": 64,
        },
        both(),
        tuple(
            mlp(
                f"{side}.layers.*.ffn{inside}",
                layer("ff_layer_norm"),
                "relu",
                "fc1",
                "fc2",
                count=1,
                experts=experts,
            )
            for side in ("encoder", "decoder")
            for inside, experts in (("", 0), (".experts.expert_*", 4))
        ),
    ),
)


def _kin(
    name: str, model: str, norm: Entering = POST, activation: str = "gelu", **config: Any
) -> Architecture:
    """Return a relative of BERT, whose FFN is intermediate.dense and output.dense."""
    group = mlp("encoder.layer.*", norm, activation, "intermediate.dense", "output.dense")
    return Architecture(name, model, BERT | config, ids(), (group,))


def _translator(
    name: str, model: str, encoder: str, decoder: str, activation: str, **config: Any
) -> Architecture:
    groups = tuple(
        mlp(f"{side}.layers.*", layer(leaf), activation, "fc1", "fc2")
        for side, leaf in (("encoder", encoder), ("decoder", decoder))
    )
    return Architecture(name, model, SEQ2SEQ | config, both(), groups)


def _conformer(leaf: str, where: str) -> Ffn:
    inside = ("intermediate_dense", "output_dense")
    return mlp(f"encoder.layers.*.{where}", layer(leaf), "gelu", *inside)


ENCODERS: tuple[Architecture, ...] = (
    _kin("camembert", "CamembertModel"),
    _kin("roformer", "RoFormerModel", embedding_size=32),
    _kin("rembert", "RemBertModel", input_embedding_size=16),
    _kin("megatron_bert", "MegatronBertModel", layer("ln", 1e-12)),
    _kin("xlm_roberta_xl", "XLMRobertaXLModel", layer("LayerNorm")),
    _kin("big_bird", "BigBirdModel", activation="gelu_tanh", attention_type="original_full"),
    _kin(
        "nystromformer",
        "NystromformerModel",
        layer("LayerNorm"),
        "gelu_tanh",
        num_landmarks=4,
        segment_means_seq_len=8,
    ),
    _kin("splinter", "SplinterModel"),
    _kin("layoutlm", "LayoutLMModel"),
    _kin("ernie", "ErnieModel"),
    _kin("data2vec_text", "Data2VecTextModel"),
    _kin("ibert", "IBertModel"),
    Architecture(
        "fnet",
        "FNetModel",
        {k: v for k, v in BERT.items() if k != "num_attention_heads"},
        ids(),
        (mlp("encoder.layer.*", POST, "gelu_tanh", "intermediate.dense", "output.dense"),),
    ),
    Architecture(
        "mobilebert",
        "MobileBertModel",
        BERT
        | {
            "embedding_size": 16,
            "intra_bottleneck_size": 16,
            "normalization_type": "layer_norm",
            "num_feedforward_networks": 3,
        },
        ids(),
        (
            mlp(
                "encoder.layer.*",
                POST,
                "relu",
                "intermediate.dense",
                "output.dense",
                d_model=16,
            ),
            mlp(
                "encoder.layer.*.ffn.*",
                POST,
                "relu",
                "intermediate.dense",
                "output.dense",
                d_model=16,
                count=4,
            ),
        ),
    ),
    Architecture(
        "flaubert",
        "FlaubertModel",
        {
            "emb_dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": 64,
        },
        ids(),
        (mlp("ffns.*", layer("*", 1e-12), "gelu", "lin1", "lin2", d_ff=128),),
    ),
    Architecture(
        "eurobert", "EuroBertModel", SMALL, ids(), (glu("layers.*.mlp", rms(eps=1e-5)),)
    ),
    Architecture(
        "esmc",
        "EsmcModel",
        HEADS | {"num_key_value_heads": 4},
        ids(),
        (glu("layers.*.mlp", layer("post_attention_layernorm")),),
    ),
    Architecture(
        "aimv2_vision",
        "Aimv2VisionModel",
        VISION | {"use_head": False},
        PIXELS,
        (glu("encoder.layers.*.ffn", rms("rms_norm2", 1e-5)),),
    ),
    Architecture(
        "dinov3",
        "DINOv3ViTModel",
        VISION,
        PIXELS,
        (mlp("model.layer.*.mlp", layer("norm2"), "gelu", "up_proj", "down_proj"),),
    ),
    Architecture(
        "dinov3_gated",
        "DINOv3ViTModel",
        VISION | {"use_gated_mlp": True, "hidden_act": "silu"},
        PIXELS,
        (glu("model.layer.*.mlp", layer("norm2")),),
    ),
    Architecture(
        "pixtral_vision",
        "PixtralVisionModel",
        VISION,
        PIXELS,
        (glu("transformer.layers.*.feed_forward", rms("ffn_norm", 1e-5), "gelu"),),
    ),
    Architecture(
        "convnext",
        "ConvNextModel",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
        PIXELS,
        tuple(
            mlp(
                f"encoder.stages.{n}.layers.0",
                layer("layernorm", 1e-6),
                "gelu",
                "pwconv1",
                "pwconv2",
                d_model=width,
                d_ff=4 * width,
                count=1,
            )
            for n, width in enumerate((16, 32))
        ),
    ),
    # A depthwise convolution stands between the first matrix and the activation, so that
    # the path is not position-wise; whoever counts it must get the rest right.
    Architecture(
        "segformer",
        "SegformerModel",
        {
            "num_encoder_blocks": 1,
            "depths": [2],
            "sr_ratios": [1],
            "hidden_sizes": [32],
            "patch_sizes": [3],
            "strides": [2],
            "num_attention_heads": [2],
            "mlp_ratios": [2],
        },
        PIXELS,
        (
            mlp(
                "stages.0.blocks.*.mlp",
                layer("layernorm_after"),
                "gelu",
                "fc1",
                "fc2",
                d_ff=64,
                optional=True,
            ),
        ),
    ),
    Architecture(
        "wav2vec2_conformer",
        "Wav2Vec2ConformerModel",
        AUDIO | {"conv_depthwise_kernel_size": 3},
        WAVE,
        (_conformer("ffn1_layer_norm", "ffn1"), _conformer("ffn2_layer_norm", "ffn2")),
    ),
    Architecture(
        "parakeet",
        "ParakeetEncoder",
        MULTI
        | {
            "num_mel_bins": 16,
            "subsampling_conv_channels": 8,
            "conv_kernel_size": 3,
            "num_key_value_heads": 4,
        },
        values("input_features", 2, 64, 16),
        tuple(
            mlp(
                f"layers.*.feed_forward{n}",
                layer(f"norm_feed_forward{n}"),
                "silu",
                "linear1",
                "linear2",
            )
            for n in (1, 2)
        ),
    ),
    Architecture(
        "longt5",
        "LongT5Model",
        T5 | {"local_radius": 3, "feed_forward_proj": "relu"},
        both(),
        (
            mlp(
                "encoder.block.*.layer.1.DenseReluDense", rms("layer_norm"), "relu", "wi", "wo"
            ),
            mlp(
                "decoder.block.*.layer.2.DenseReluDense", rms("layer_norm"), "relu", "wi", "wo"
            ),
        ),
    ),
    _translator("m2m_100", "M2M100Model", "final_layer_norm", "final_layer_norm", "relu"),
    _translator(
        "blenderbot", "BlenderbotModel", "final_layer_norm", "final_layer_norm", "gelu"
    ),
    _translator(
        "plbart", "PLBartModel", "self_attn_layer_norm", "encoder_attn_layer_norm", "gelu"
    ),
    _translator(
        "fsmt",
        "FSMTModel",
        "self_attn_layer_norm",
        "encoder_attn_layer_norm",
        "relu",
        src_vocab_size=64,
        tgt_vocab_size=64,
        langs=["en", "de"],
    ),
)

GATED_NORM = Entering("other", "post_attention_layernorm", eps=1e-6)
PATCHES = values("pixel_values", 2, 3, 64, 64)


def _levit(where: str, width: int, count: int) -> Ffn:
    return mlp(
        f"encoder.stages.{where}.module", NO_NORM, "hardswish", "linear_up.linear",
        "linear_down.linear", d_model=width, d_ff=2 * width, count=count,
    )  # fmt: skip


BEYOND: tuple[Architecture, ...] = (
    Architecture(
        "axk2",
        "AXK2ForCausalLM",
        {k: v for k, v in MLA.items() if k != "first_k_dense_replace"}
        | {
            "mlp_layer_types": ["dense", "sparse"],
            "n_shared_experts": 1,
            "index_head_dim": 8,
            "index_n_heads": 4,
            "gated_norm_rank": 8,
            "n_group": None,
            "topk_group": None,
        },
        ids(),
        (
            glu(MODEL, rms(), count=1),
            packed(f"{MODEL}.experts", GATED_NORM, count=1, d_ff=20),
            glu(f"{MODEL}.shared_experts", GATED_NORM, count=1, d_ff=20),
        ),
    ),
    Architecture(
        "muse_spark",
        "MuseSparkTextModel",
        EXPERTS
        | {
            "num_hidden_layers": 3,
            "moe_intermediate_size": 20,
            "moe_hidden_size": 16,
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
            "layer_rope_theta": [500000.0, 500000.0, 0],
        },
        ids(),
        (
            glu("layers.*.mlp", rms("pre_feedforward_layernorm", 1e-5, "1+w"), count=1),
            packed(
                "layers.*.mlp.experts",
                rms("pre_expert_norm", 1e-5, "1+w"),
                d_model=16,
                d_ff=20,
            ),
        ),
    ),
    Architecture(
        "levit",
        "LevitModel",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        PATCHES,
        (
            _levit("0.layers.1", 16, 1),
            _levit("0.layers.3", 32, 1),
            _levit("1.layers.1", 32, 1),
            _levit("1.layers.3", 48, 1),
            _levit("2.layers.1", 48, 1),
        ),
    ),
    Architecture(
        "patchtst",
        "PatchTSTModel",
        {
            "context_length": 8,
            "d_model": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        values("past_values", 2, 8, 1),
        (
            mlp("encoder.layers.*.ff", Entering("other", "batchnorm", "w", bias=True, eps=1e-5),
                "gelu", "0", "3"),
        ),
    ),
    Architecture(
        "poolformer",
        "PoolFormerModel",
        {"depths": [1, 1], "hidden_sizes": [32, 32], "num_encoder_blocks": 2,
         "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "mlp_ratio": 1.5},
        PATCHES,
        (
            mlp("encoder.block.*.*.output",
                Entering("other", "after_norm", "w", bias=True, eps=1e-5), "gelu", "conv1",
                "conv2"),
        ),
    ),
)  # fmt: skip

RARE: tuple[Architecture, ...] = HYBRIDS + DECODERS + MIXTURES + ENCODERS + BEYOND

"""What the manifest of a run says of the model and of where it ran."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from torch import nn

from ffn_probe.anatomy import Block

_WATCHED = ("torch", "transformers", "numpy", "ffn-probe")
_CONFIG = (
    "model_type", "hidden_act", "hidden_activation", "activation_function", "hidden_size",
    "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "num_local_experts",
    "num_experts", "num_experts_per_tok", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def described(model: nn.Module) -> dict[str, Any]:
    """Return class, name, dtype, size and the telling fields of the configuration."""
    config = getattr(model, "config", None)
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    named = {key: getattr(config, key, None) for key in _CONFIG} if config is not None else {}
    simple = {k: v for k, v in named.items() if isinstance(v, str | int | float | bool)}
    return {
        "class": type(model).__name__,
        "name": str(getattr(config, "_name_or_path", "") or "")[:200],
        "dtype": dtypes[0] if len(dtypes) == 1 else ", ".join(dtypes) or "none",
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": model.training,
        "config": simple,
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    found = {"python": python_version(), "platform": sys.platform}
    for name in _WATCHED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def caveats(model: nn.Module, known: Sequence[Block], chosen: Sequence[Block]) -> list[str]:
    """Return what a reader of the run should know of what was not, or not quite, watched."""
    names = {block.name for block in chosen}
    flagged = [b for b in known if b.flags and b.name not in names]
    notes = [f"{b.name} was not watched: {', '.join(b.flags)}" for b in flagged]
    if not model.training and any(
        isinstance(m, nn.TransformerEncoderLayer) for m in model.modules()
    ):
        notes.append(
            "torch turns the fused fast path of nn.TransformerEncoderLayer off while hooks are "
            "attached; outputs may differ from the bare model in the last bits"
        )
    return notes

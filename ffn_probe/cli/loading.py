"""Models and batches from what was typed: an import path, a folder, a model id, a file."""

import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffn_probe.errors import ExampleError, FfnProbeError, ModelError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name: str, *, random: bool, dtype: str | None, device: str
) -> tuple[nn.Module, Iterable[Any] | None]:
    """Return the model, and the batches when its factory returned some.

    Raises:
        ModelError: nothing of that name can be loaded.
        FfnProbeError: the dtype or device does not exist.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise FfnProbeError(f"no dtype {dtype!r}; possible: {', '.join(_DTYPES)}")
    where = _device(device)
    if _is_import(name):
        model, batches = _made(name)
    else:
        model, batches = _pretrained(name, random=random), None
    model = model.eval().to(where)
    return (model.to(_DTYPES[dtype]) if dtype else model), batches


def example_for(model: nn.Module) -> dict[str, Any]:
    """Return a small random input for a Hugging Face model.

    Raises:
        ExampleError: what the model takes is not known.
    """
    config = getattr(model, "config", None)
    wanted = getattr(model, "main_input_name", None)
    if config is None or wanted is None:
        raise ExampleError(
            f"no example is known for {type(model).__name__}: pass --data "
            "package.module:function, which returns batches, or a factory of (model, batches)"
        )
    generator = torch.Generator().manual_seed(0)
    text = getattr(config, "get_text_config", lambda: config)()
    if wanted == "input_ids":
        ids = torch.randint(
            4, max(int(getattr(text, "vocab_size", 100)), 5), (2, 16), generator=generator
        )
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(config, "is_encoder_decoder", False):
            given["decoder_input_ids"] = ids[:, :8]
        return given
    if wanted == "pixel_values":
        size = getattr(getattr(config, "vision_config", config), "image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        channels = getattr(config, "num_channels", 3)
        return {wanted: torch.randn(1, channels, height, width, generator=generator)}
    raise ExampleError(
        f"{type(model).__name__} takes {wanted!r}: pass --data package.module:function"
    )


def batches_from(
    data: str | None,
    text: Path | None,
    made: Iterable[Any] | None,
    *,
    model: str,
    sequences: int,
    length: int,
    limit: int | None,
) -> tuple[Iterable[Any], int | None]:
    """Return the batches and how many there are, None when that is not known.

    Raises:
        ExampleError: there are none, or they cannot be made.
    """
    if data is not None:
        found = _named(data)
        made = found() if callable(found) else found
    elif text is not None:
        made = _tokenized(text, model, sequences, length)
    if made is None:
        raise ExampleError(
            "no batches: pass --text FILE or --data package.module:function, or a factory that "
            "returns (model, batches)"
        )
    if not isinstance(made, Iterable):
        raise ExampleError(f"{data or model} gave {type(made).__name__}, expected batches")
    count = len(made) if isinstance(made, Sized) else None
    if limit is not None:
        return islice(made, limit), limit if count is None else min(limit, count)
    return made, count


def _device(name: str) -> torch.device:
    try:
        where = torch.device(name)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise FfnProbeError(f"device {name!r} cannot be used: {str(error)[:200]}") from error
    return where


def _is_import(name: str) -> bool:
    module, sign, attribute = name.partition(":")
    return bool(sign) and attribute.isidentifier() and not Path(module).exists()


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"cannot import {module!r}: {error}") from error
    if not hasattr(found, attribute):
        public = [n for n in dir(found) if not n.startswith("_")][:12]
        raise ModelError(f"{module!r} has no {attribute!r}; it has {', '.join(public)}")
    return getattr(found, attribute)


def _made(name: str) -> tuple[nn.Module, Iterable[Any] | None]:
    found = _named(name)
    made = found if isinstance(found, nn.Module) or not callable(found) else found()
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], made[1]
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{name} gave {type(made).__name__}; expected a torch.nn.Module or "
            "(module, batches)"
        )
    return made, None


def _pretrained(name: str, *, random: bool) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{name!r} is no package.module:factory, and loading it as a Hugging Face model "
            "needs transformers: pip install 'ffn-probe[transformers]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], None)
        if random:
            torch.manual_seed(0)
            auto = transformers.AutoModel
            model = kind(config) if kind else auto.from_config(config)  # type: ignore[no-untyped-call]
        else:
            model = (kind or transformers.AutoModel).from_pretrained(name)
    except (OSError, ValueError, ImportError, json.JSONDecodeError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise ModelError(
            f"cannot load {name!r}: {first}. Possible: package.module:factory, a folder with "
            "config.json and weights, or a model id; --random builds it without weights."
        ) from error
    return model  # type: ignore[no-any-return]


def _tokenized(text: Path, model: str, sequences: int, length: int) -> list[dict[str, Any]]:
    try:
        written = text.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ExampleError(f"cannot read {text}: {error.strerror}") from error
    if _is_import(model):
        raise ExampleError("--text needs a model with a tokenizer; pass --data instead")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ExampleError(
            f"{model} has no tokenizer: pass --data instead of --text"
        ) from error
    ids = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
    rows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
    if not rows:
        raise ExampleError(
            f"{text} has {len(ids)} tokens, fewer than one sequence of {length}: a longer text "
            "or a smaller --length"
        )
    return list(_grouped(rows, sequences))


def _grouped(rows: list[list[int]], size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(rows), size):
        ids = torch.tensor(rows[start : start + size])
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

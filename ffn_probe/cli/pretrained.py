"""Hugging Face models and their tokenizers, from a folder or an id; no code is fetched."""

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from ffn_probe.cli.importing import said
from ffn_probe.errors import ExampleError, ModelError

_NOISY = ("torchao", "torch.utils._pytree", "huggingface_hub", "transformers", "httpx")


def pretrained(name: str, *, random: bool) -> nn.Module:
    """Return the model of a folder or an id, with random weights when asked for.

    Raises:
        ModelError: transformers is not there, or there is no such model or no weights.
    """
    _check_place(name)
    with _quiet():
        transformers = _transformers(name)
        try:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            kinds = getattr(config, "architectures", None) or ["AutoModel"]
            kind = getattr(transformers, kinds[0], None)
            if random:
                torch.manual_seed(0)
                model = kind(config) if kind else transformers.AutoModel.from_config(config)
            else:
                model = _with_weights(kind or transformers.AutoModel, name)
        except ModelError:
            raise
        except Exception as error:  # whatever transformers raises about what was given to it
            raise ModelError(_failure(name, error, random=random)) from error
    return model  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def tokenizer_of(name: str) -> Any:
    """Return the tokenizer of a folder or an id; the same one when asked again.

    Raises:
        ExampleError: it has none.
    """
    with _quiet():
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # the same
            raise ExampleError(
                f"{name} has no tokenizer that loads ({_first_line(error)}): give the batches "
                "as --data package.module:function"
            ) from error


def _check_place(name: str) -> None:
    """Raise ModelError at once for what can be no model id, without asking the network."""
    if not name:
        raise ModelError(
            "the model's name is empty; expected package.module:factory or a folder"
        )
    module = name.removesuffix(".py").replace("/", ".").strip(".")
    path = Path(name)
    if path.suffix == ".py" or (not path.exists() and Path(f"{name}.py").exists()):
        raise ModelError(
            f"{name!r} is Python code: name the model in it as {module or 'module'}:factory, a "
            "function that returns the model, or (model, batches)"
        )
    if path.is_file():
        raise ModelError(f"{name} is a file; expected a folder with config.json and weights")
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(f"{name} is no model: the folder holds no config.json")
    if not path.exists() and name.startswith((".", "/", "~")):
        raise ModelError(f"no folder {name!r}")


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{name!r} is no package.module:factory, and loading it as a Hugging Face model "
            "needs transformers: pip install 'ffn-probe[transformers]'"
        ) from error
    return transformers


def _with_weights(kind: Any, name: str) -> nn.Module:
    model, info = kind.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        typer.echo(
            f"note: {len(missing)} weights are not in {name} and are random "
            f"(first: {missing[0]})",
            err=True,
        )
    return model  # type: ignore[no-any-return]


def _failure(name: str, error: Exception, *, random: bool) -> str:
    text = f"cannot load {name!r}: {_first_line(error)}"
    if Path(name).is_dir() and not random:
        return f"{text} --random builds it from config.json, without weights."
    return (
        f"{text} Possible: package.module:factory, a folder with config.json and weights, or "
        "the id of a model on the Hugging Face Hub."
    )


def _first_line(error: Exception) -> str:
    if not isinstance(error, OSError | ValueError | ImportError | json.JSONDecodeError):
        return said(error) + "."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(". ") + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars, retries and remarks about optional kernels off the terminal."""
    before = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if importlib.util.find_spec("transformers") is not None:
            from transformers.utils import logging as chatter

            chatter.set_verbosity_error()  # type: ignore[no-untyped-call]
            chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

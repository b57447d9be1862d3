"""Models and batches from what was typed: an import path, a folder, a model id, a file."""

import builtins
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffn_probe.cli.importing import called, is_import, named, said
from ffn_probe.cli.pretrained import pretrained, tokenizer_of
from ffn_probe.discover.calling import check_readable
from ffn_probe.errors import ExampleError, FfnProbeError, ModelError, UnknownName

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LETTERS = 32  # more than the letters of a token, on average, in any text


def load(
    name: str, *, random: bool, dtype: str | None, device: str
) -> tuple[nn.Module, object]:
    """Return the model, and the batches when its factory returned some.

    Raises:
        ModelError: nothing of that name can be loaded, or it cannot be watched.
        FfnProbeError: the dtype or device does not exist.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise UnknownName.of("dtype", dtype, _DTYPES)
    where = _device(device)
    if is_import(name):
        if random:
            raise FfnProbeError(
                f"--random is for Hugging Face models; {name} decides its weights itself"
            )
        model, batches = _made(name)
    else:
        model, batches = pretrained(name, random=random), None
    check_readable(model)
    try:
        model = model.eval().to(where)
        return (model.to(_DTYPES[dtype]) if dtype else model), batches
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{name} cannot be moved to {device}: {said(error)}") from error


def batches_from(
    data: str | None,
    made: object,
    *,
    model: str,
    sequences: int,
    length: int,
    limit: int | None,
) -> tuple[Iterable[Any], int | None]:
    """Return the batches and how many there are, None when that is not known.

    Args:
        data: a text file, or package.module:name of a function that returns batches, or of
            an iterable of them. None: what the model's factory returned.
        made: what the model's factory returned beside the model.
        model: the model's name, whose tokenizer reads a text file.
        sequences: sequences a batch of a text file.
        length: tokens a sequence of a text file.
        limit: at most so many batches.

    Raises:
        ExampleError: there are none, or they cannot be made.
        ModelError: the function of `data` failed.
    """
    given = made if data is None else _data(data, model, sequences, length, limit)
    if given is None:
        raise ExampleError(
            f"no batches{f' from {data}' if data else ''}: pass --data with a text file or "
            "package.module:function, or a factory that returns (model, batches)"
        )
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict | nn.Module):
        raise ExampleError(
            f"{data or model} gave {_kind(given)} for batches; expected a list, a generator or "
            "a loader of inputs"
        )
    count = len(given) if isinstance(given, Sized) else None
    stream = _told(given, data or model)
    if limit is not None:
        return islice(stream, limit), limit if count is None else min(limit, count)
    return stream, count


def _told(stream: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield the batches; whatever making one raises is an ExampleError that says which."""
    ordinal = 0
    try:
        for batch in stream:
            yield batch
            ordinal += 1
    except FfnProbeError:
        raise
    except Exception as error:
        raise ExampleError(f"{name} failed at batch {ordinal}: {said(error)}") from error


def _device(name: str) -> torch.device:
    try:
        where = torch.device(name)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(kind for kind in ("cuda", "mps", "xpu") if _there(kind))]
        raise FfnProbeError(
            f"device {name!r} cannot be used here; possible: {', '.join(here)}. "
            f"(torch: {str(error).splitlines()[0][:200]})"
        ) from error
    return where


def _there(kind: str) -> bool:
    module = getattr(torch, kind, None)
    return bool(module is not None and module.is_available())


def _made(name: str) -> tuple[nn.Module, object]:
    found = named(name)
    made = found
    if callable(found) and not isinstance(found, nn.Module):
        made = called(name, found)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], made[1]
    if not isinstance(made, nn.Module):
        raise ModelError(
            f"{name} gave {_kind(made)}; expected a torch.nn.Module or (module, batches)"
        )
    return made, None


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple ({', '.join(type(item).__name__ for item in value[:6])})"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"a value of type {name}" if hasattr(builtins, name) else f"a {name}"


def _data(data: str, model: str, sequences: int, length: int, limit: int | None) -> object:
    path = Path(data)
    if path.is_dir():
        raise ExampleError(f"{data} is a folder; expected a text file")
    if path.exists():
        return list(_tokenized(path, model, sequences, length, limit))
    if not is_import(data):
        raise ExampleError(f"no file {data!r}, and it is no package.module:function")
    found = named(data)
    if callable(found) and not isinstance(found, nn.Module):
        return called(data, found)
    return found


def _tokenized(
    path: Path, model: str, sequences: int, length: int, limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a text: whole sequences, and a last batch that may be smaller."""
    if is_import(model):
        raise ExampleError(
            f"{path} is text, and {model} names no tokenizer: give the batches as --data "
            "package.module:function"
        )
    letters = None if limit is None else limit * sequences * length * _LETTERS
    ids = tokenizer_of(model)(_text(path, letters), add_special_tokens=False, verbose=False)
    tokens = ids["input_ids"]
    rows = [tokens[i : i + length] for i in range(0, len(tokens) - length + 1, length)]
    if not rows:
        raise ExampleError(
            f"{path} has {len(tokens)} tokens, fewer than one sequence of {length}: a longer "
            "text or a smaller --length"
        )
    for start in range(0, len(rows), sequences):
        batch = torch.tensor(rows[start : start + sequences])
        yield {"input_ids": batch, "attention_mask": torch.ones_like(batch)}


def vocabulary_of(model: str, data: str | None) -> object:
    """Return the tokenizer that reads a text file, whose tokens a run names; else None."""
    return tokenizer_of(model) if data is not None and Path(data).is_file() else None


def _text(path: Path, letters: int | None) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(letters)
    except OSError as error:
        raise ExampleError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ExampleError(f"{path} is not text in UTF-8: {error.reason}") from error
    if "\0" in text:
        raise ExampleError(f"{path} is not text: it holds zero bytes")
    return text

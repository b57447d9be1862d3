"""The texts of tokens, from a tokenizer or a mapping, made safe to keep."""

from collections.abc import Callable, Mapping
from typing import Any

from ffn_probe.errors import AttachError
from ffn_probe.runs import TOKEN_LETTERS
from ffn_probe.runs.visible import visible


def token_texts(vocabulary: object) -> Callable[[int], str] | None:
    """Return the function that gives a token id its text, None where nothing is known.

    Raises:
        AttachError: `vocabulary` is neither a mapping nor a tokenizer.
    """
    if vocabulary is None:
        return None
    if isinstance(vocabulary, Mapping):
        known = vocabulary
        return lambda token: _kept(str(known.get(token, known.get(str(token), ""))))
    if callable(getattr(vocabulary, "convert_ids_to_tokens", None)) or callable(
        getattr(vocabulary, "decode", None)
    ):
        return lambda token: _kept(_decoded(vocabulary, token))
    raise AttachError(
        f"vocabulary is a {type(vocabulary).__name__}; expected a tokenizer (with "
        "convert_ids_to_tokens or decode) or a mapping from token ids to texts"
    )


def _decoded(tokenizer: Any, token: int) -> str:
    """Return the text of a token; where it alone is no whole text, its name."""
    convert = getattr(tokenizer, "convert_ids_to_tokens", None)
    name = str(convert([token])[0]) if convert is not None else ""
    if name.startswith("\u2581"):  # sentencepiece, whose decode drops the space
        return name.replace("\u2581", " ")
    decode = getattr(tokenizer, "decode", None)
    text = str(decode([token])) if decode is not None else ""
    return name if name and (not text or "\ufffd" in text) else text


def _kept(text: str) -> str:
    return visible(text, TOKEN_LETTERS)

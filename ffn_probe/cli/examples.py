"""A small random input for a Hugging Face model of any modality.

What a model takes is read from the parameters of its forward and from its configuration;
the first candidate that the model accepts is the example.
"""

import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ffn_probe.discover.calling import describe, undisturbed
from ffn_probe.errors import ExampleError

_TOKENS = 16
_SEQUENCES = 2
_MOST_TRIES = 24
_IMAGE_NAMES = ("pixel_values", "pixel_values_videos", "flattened_patches")
_AUDIO_NAMES = ("input_features", "input_values", "audio_values", "audio_mel")

Given = dict[str, Tensor]


def example_for(model: nn.Module) -> dict[str, Any]:
    """Return a small random input that the model accepts, the same one every time.

    The model is run on each candidate until it accepts one: text alone where that is
    enough, then images, audio, and text with them. It is as before afterwards.

    Raises:
        ExampleError: what the model takes is not known, or it rejected every candidate.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise ExampleError(
            f"no example is known for {type(model).__name__}: pass --data "
            "package.module:function, which returns batches, or a factory of (model, batches)"
        )
    refused: list[str] = []
    for given in islice(_candidates(model, config), _MOST_TRIES):
        placed = _placed(given, model)
        reason = _refusal(model, placed)
        if not reason:
            return placed
        refused.append(f"{describe(placed)}: {reason}")
    refused.sort(key=lambda told: "missing" in told)  # what came nearest first
    tried = "; ".join(refused[:2]) or "nothing, as its forward takes none of the usual inputs"
    raise ExampleError(
        f"no example is known for {type(model).__name__} (forward takes "
        f"{', '.join(list(_parameters(model))[:6])}). Tried {tried}. Pass --data "
        "package.module:function, which returns batches."
    )


def _refusal(model: nn.Module, given: Given) -> str:
    """Return why the model does not run on `given`, "" when it does."""
    with undisturbed(model), torch.no_grad():
        try:
            model(**given)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0][:200]}"
    return ""


def _placed(given: Given, model: nn.Module) -> Given:
    """Return `given` on the device and in the floating dtype of the model."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None:
        return given
    return {
        name: value.to(first.device, first.dtype if value.is_floating_point() else None)
        for name, value in given.items()
    }


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


# Candidates


def _candidates(model: nn.Module, config: Any) -> Iterator[Given]:
    """Yield inputs, the likeliest first: the main input, then text with it, then the rest."""
    names = set(_parameters(model))
    texts = list(_texts(names, config))
    others = [*_images(names, config), *_audio(names, config)]
    rest = [*_series(names, config), *_patches(model, config), *_states(model, config)]
    if getattr(model, "main_input_name", "input_ids") == "input_ids":
        yield from texts
        yield from (texts[0] | other for other in others if texts)
        yield from others
    else:
        decoder = {k: v for t in texts[:1] for k, v in t.items() if k.startswith("decoder_")}
        decoder = decoder or _decoder(names, config)
        yield from (other | decoder for other in others)
        yield from (texts[0] | other for other in others if texts)
        yield from texts
    yield from rest


def _texts(names: set[str], config: Any) -> Iterator[Given]:
    if "input_ids" not in names:
        return
    for shape in _token_shapes(config):
        ids = _ids(config, *shape)
        given: Given = {"input_ids": ids}
        if len(shape) == 2 and "attention_mask" in names:
            given["attention_mask"] = torch.ones_like(ids)
        if "bbox" in names:
            given["bbox"] = torch.tensor([1, 2, 5, 6]).expand(*shape, 4).clone()
        given |= _decoder(names, config)
        yield given
        if "decoder_input_ids" in given:
            yield {k: v for k, v in given.items() if not k.startswith("decoder_")}


def _token_shapes(config: Any) -> Iterator[tuple[int, ...]]:
    most = _integer(config, "max_position_embeddings", "n_positions", default=512)
    length = _TOKENS if most <= 4 else min(_TOKENS, most - 2)
    yield (_SEQUENCES, length)
    books = _integer(config, "num_codebooks", "num_channels", default=0)
    if books > 1:
        yield from ((books, length), (1, books, length), (1, length, books))


def _decoder(names: set[str], config: Any) -> Given:
    if "decoder_input_ids" not in names:
        return {}
    return {"decoder_input_ids": _ids(config, _SEQUENCES, _TOKENS // 2)}


def _images(names: set[str], config: Any) -> Iterator[Given]:
    channels = _integer(config, "num_channels", "in_channels", default=3)
    frames = _integer(config, "num_frames", default=2)
    for name in _IMAGE_NAMES[:2]:
        if name in names:
            for height, width in _sizes(config):
                yield {name: _noise(_SEQUENCES, channels, height, width)}
                yield {name: _noise(1, frames, channels, height, width)}
    if "flattened_patches" in names:
        patch = _integer(config, "patch_size", default=16)
        rows = torch.arange(1, 17).reshape(1, 16, 1)
        places = torch.cat([(rows - 1) // 4 + 1, (rows - 1) % 4 + 1], dim=-1).float()
        width = _integer(config, "patch_embed_hidden_size", default=patch * patch * channels)
        for size in (patch * patch * channels, width):
            yield {"flattened_patches": torch.cat([places, _noise(1, 16, size)], dim=-1)}


def _sizes(config: Any) -> Iterator[tuple[int, int]]:
    """Yield (height, width): the configured one, then usual ones."""
    size = _find(config, ("image_size", "img_size"), (int, list, tuple, dict))
    if isinstance(size, dict):
        size = [v for k, v in size.items() if k in {"height", "width"}]
    if isinstance(size, int):
        yield size, size
    elif size is not None and len(size) >= 2 and all(isinstance(s, int) for s in size[:2]):
        yield size[0], size[1]
    yield from ((64, 64), (224, 224))


def _audio(names: set[str], config: Any) -> Iterator[Given]:
    bins = _integer(
        config, "num_mel_bins", "feature_size", "input_feat_per_channel", "input_dim",
        "input_feat_size", default=80,
    )  # fmt: skip
    frames = 2 * _integer(config, "max_source_positions", default=32)
    length = _integer(config, "max_length", default=64)
    wave, spectrum = _noise(_SEQUENCES, 4000), _noise(_SEQUENCES, 64, bins)
    for name in (n for n in _AUDIO_NAMES if n in names):
        shaped = {
            "input_features": (_noise(_SEQUENCES, bins, frames), spectrum),
            "input_values": (wave, _noise(_SEQUENCES, length, bins), wave[:, None]),
        }.get(name, (wave[:, None], spectrum))
        for value in shaped:
            yield {name: value}
            for mask in ("attention_mask", "input_features_mask", "audio_mel_mask"):
                if mask in names and value.dim() == 3:
                    yield {name: value, mask: torch.ones(_SEQUENCES, value.shape[-1]).long()}
                    yield {name: value, mask: torch.ones(_SEQUENCES, value.shape[1]).long()}


def _series(names: set[str], config: Any) -> Iterator[Given]:
    if "past_values" in names:
        length = _integer(config, "context_length", default=32)
        channels = _integer(config, "num_input_channels", default=1)
        past = _noise(_SEQUENCES, length, channels)
        yield {"past_values": past}
        yield {"past_values": past[..., 0]}


def _patches(model: nn.Module, config: Any) -> Iterator[Given]:
    """Yield rows of flattened patches with their grid (towers of the Qwen-VL kind)."""
    names = list(_parameters(model))
    grids = [n for n in names if n in {"grid_thw", "image_grid_thw"}]
    if grids and names[0] != grids[0]:
        patch = _integer(config, "patch_size", default=14)
        channels = _integer(config, "in_channels", "num_channels", default=3)
        deep = _integer(config, "temporal_patch_size", default=1)
        grid = torch.tensor([[1, 4, 4]])
        width = channels * patch * patch
        for shape in ((16, width * deep), (16, channels, patch, patch), (1, 16, width)):
            yield {names[0]: _noise(*shape), grids[0]: grid}


def _states(model: nn.Module, config: Any) -> Iterator[Given]:
    """Yield vectors of the model's width, for parts of models that take no raw input."""
    width = _integer(config, "hidden_size", "d_model", default=0)
    names = list(_parameters(model))
    for name in ("inputs_embeds", "hidden_states", *names[:1]):
        if width and name in names:
            yield {name: _noise(_SEQUENCES, _TOKENS, width)}


# Values


def _ids(config: Any, *shape: int) -> Tensor:
    """Return token ids that stand for no image, sound or end of text."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = _integer(text, "vocab_size", default=0) or _integer(config, "vocab_size", default=99)
    marked = set(_marks(config))
    free = [i for i in range(min(size, 1000)) if i not in marked and i >= min(4, size - 1)]
    choice = torch.tensor(free or [0])
    generator = torch.Generator().manual_seed(0)
    return choice[torch.randint(len(choice), shape, generator=generator)]


def _marks(config: Any) -> Iterator[int]:
    for part in _parts(config):
        for name, value in vars(part).items():
            if name.endswith(("_token_id", "_token_index")):
                yield from (v for v in _listed(value) if isinstance(v, int))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _integer(config: Any, *names: str, default: int) -> int:
    found = _find(config, names, (int,))
    return default if found is None else int(found)


def _find(config: Any, names: tuple[str, ...], types: tuple[type, ...]) -> Any:
    """Return the first of the attributes that the configuration or a part of it has."""
    for name in names:
        for part in _parts(config):
            value = getattr(part, name, None)
            if isinstance(value, types) and not isinstance(value, bool):
                return value
    return None


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _parts(value)

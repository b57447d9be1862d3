import ast
import hashlib
from itertools import pairwise

import pytest
import torch

from sample_runs.tiny_lm import (
    HELD_BACK,
    MODELS,
    TRAIN,
    VARIANTS,
    TinyLM,
    batches,
    held_back,
    load,
    loss,
    text,
)


def test_no_file_is_in_both_splits() -> None:
    train, held = TRAIN.split(), HELD_BACK.split()
    assert not set(train) & set(held)
    assert len(set(train)) == len(train)
    assert len(set(held)) == len(held)


@pytest.mark.parametrize("split", ["train", "held-back"])
def test_text_is_python_source_and_no_tests(split: str) -> None:
    data = text(split)
    assert len(data) > 100_000
    assert hashlib.sha256(data).digest() == hashlib.sha256(text(split)).digest()
    assert not [name for name in (TRAIN + HELD_BACK).split() if name.startswith("test")]
    ast.parse(data[: data.index(b"\nclass ")].decode().split('"""', 2)[2])


def test_held_back_batches_are_disjoint_and_repeatable() -> None:
    first, second = held_back(count=16), held_back(count=16)
    rows = torch.cat([batch["input_ids"] for batch in first])
    assert torch.equal(rows, torch.cat([batch["input_ids"] for batch in second]))
    assert rows.shape == (64, 256)
    assert len({row.numpy().tobytes() for row in rows}) == 64
    whole = text("held-back")
    places = [whole.index(bytes(row.tolist())) for row in rows]
    assert min(b - a for a, b in pairwise(places)) >= 256


def test_training_batches_follow_the_seed() -> None:
    def draw(seed: int) -> torch.Tensor:
        return torch.stack(
            [b["input_ids"] for b in batches("train", count=3, sequences=2, seed=seed)]
        )

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_variants_are_equal_in_their_matrices() -> None:
    def matrices(name: str) -> int:
        return sum(p.numel() for p in TinyLM(VARIANTS[name]).parameters() if p.ndim == 2)

    assert len({matrices(name) for name in VARIANTS}) == 1


def test_a_position_sees_only_the_past() -> None:
    model = load("rms-swiglu")
    ids = held_back(count=1)[0]["input_ids"]
    changed = ids.clone()
    changed[:, 100:] = 10
    with torch.inference_mode():
        assert torch.allclose(model(ids)[:, :100], model(changed)[:, :100], atol=1e-5)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_stored_models_learned_to_read(name: str) -> None:
    model = load(name)
    batch = held_back(count=4, sequences=8)
    with torch.inference_mode():
        reached = sum(loss(model(**b), **b).item() for b in batch) / len(batch)
    counts = torch.bincount(
        torch.frombuffer(bytearray(text("train")), dtype=torch.uint8), minlength=256
    )
    log_p = ((counts + 1) / (counts + 1).sum()).log()
    unigram = -sum(log_p[b["input_ids"][:, 1:]].mean().item() for b in batch) / len(batch)
    assert reached < 0.5 * unigram


def test_weights_are_small() -> None:
    sizes = [path.stat().st_size for path in MODELS.glob("*.safetensors")]
    assert len(sizes) == 4
    assert sum(sizes) < 6_000_000

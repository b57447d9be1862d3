"""Statistics of gradients are those of the loss itself, in any precision and recomputation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import ffn_probe as fp
from ffn_probe.errors import AttachError
from tests.probes.models import Tiny, tensors_of, tiny, tokens

GRADIENTS = ("gate", "value", "hidden", "gate_act", "normed", "resid", "out")


def loss_of(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch["input_ids"].flatten())


def gradients_of(model: Tiny, batch: dict[str, Tensor]) -> dict[tuple[int, str], Tensor]:
    """The gradients of every tensor of the model, computed here and not by hooks."""
    found = tensors_of(model, batch)
    for tensor in found.values():
        tensor.retain_grad()
    last = max(layer for layer, _ in found)
    loss_of(model.head(found[last, "resid"] + found[last, "out"]), batch).backward()
    return {key: tensor.grad for key, tensor in found.items()}


def assert_close(
    run: fp.Run, expected: list[dict[tuple[int, str], Tensor]], rel: float
) -> None:
    for layer, role in expected[0]:
        values = torch.cat([part[layer, role].flatten() for part in expected]).double()
        found = run.summary(f"layers.{layer}/grad_{role}")
        assert found.moments.count == values.numel()
        assert found.moments.rms == pytest.approx(float(values.square().mean().sqrt()), rel=rel)
        assert found.extremes.absmax == pytest.approx(float(values.abs().max()), rel=rel)


def scaled(scale: float) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)


# ---- scalers ----------------------------------------------------------------------------


def test_gradients_are_unscaled_by_the_scale_of_their_own_backward(tmp_path: Path) -> None:
    """The scale changes after every step: sums over steps are right all the same."""
    model, scaler = tiny(), scaled(2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with fp.attach(
        model, to=tmp_path / "run", example=tokens(), gradients=True, rows="all", scaler=scaler
    ) as probe:
        for seed in range(4):
            loss = loss_of(model(**tokens(seed=seed)), tokens(seed=seed))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(2.0 ** (3 * seed))
            probe.step(loss=loss)
    assert_close(
        probe.run, [gradients_of(tiny(), tokens(seed=seed)) for seed in range(4)], rel=1e-5
    )
    assert probe.run.problems == ()


@pytest.mark.parametrize(
    ("scaler", "factor"),
    [
        (lambda: 8.0, 8.0),
        (lambda: lambda: torch.tensor(8.0), 8.0),
        (lambda: torch.amp.GradScaler("cpu", enabled=False), 1.0),
        (lambda: scaled(64.0), 1.0),  # a scaler that nobody used yet
    ],
)
def test_what_a_loss_was_multiplied_by_is_told_in_any_way(
    scaler: Callable[[], Any], factor: float, tmp_path: Path
) -> None:
    model = tiny()
    with fp.attach(
        model, to=tmp_path / "run", example=tokens(), gradients=True, rows="all",
        scaler=scaler(),
    ) as probe:  # fmt: skip
        (factor * loss_of(model(**tokens()), tokens())).backward()
    assert_close(probe.run, [gradients_of(tiny(), tokens())], rel=1e-5)


@pytest.mark.parametrize("scaler", [0.0, -1, True, "1024", float("nan"), float("inf")])
def test_a_scaler_that_is_none_is_refused(scaler: Any, tmp_path: Path) -> None:
    with pytest.raises(
        AttachError, match=r"expected a torch\.amp\.GradScaler, a number above zero"
    ):
        fp.attach(tiny(), to=tmp_path / "run", example=tokens(), gradients=True, scaler=scaler)


def test_a_step_that_the_scaler_skips_is_counted_as_not_finite(tmp_path: Path) -> None:
    """Scales are tried out until gradients overflow: these values are told, not hidden."""
    model, scaler = tiny().half(), scaled(2.0**24)
    with fp.attach(
        model, to=tmp_path / "run", example=tokens(), gradients=True, scaler=scaler
    ) as probe:
        scaler.scale(model(**tokens()).float().square().mean()).backward()
        probe.step(loss=1.0)
    extremes = probe.run.summary("layers.1/grad_out").extremes
    assert extremes.nan + extremes.pos_inf + extremes.neg_inf > 0
    assert any("non-finite at layers.1/grad_out" in text for text in probe.run.problems)


# ---- autocast ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_values_and_gradients_are_those_of_the_low_precision(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """Gradients small enough to vanish in float16 are there when the loss was scaled."""
    small = 2.0**-12
    model, scaler = tiny(), scaled(2.0**14)
    runs = {}
    for name, given in (("told", scaler), ("not told", None)):
        with (
            fp.attach(
                model, to=tmp_path / name, example=tokens(), gradients=True, rows="all",
                scaler=given,
            ) as probe,
            torch.autocast("cpu", dtype),
        ):  # fmt: skip
            loss = loss_of(model(**tokens()), tokens()) * small
            scaler.scale(loss).backward()  # inside of autocast: no operation of ours is cast
        runs[name] = probe.run
    expected = gradients_of(tiny(), tokens())
    for key in expected:
        expected[key] *= small
    assert_close(runs["told"], [expected], rel=0.06)
    for role in ("gate", "hidden", "out"):
        assert runs["told"].rows(f"layers.0/{role}")[2] == str(dtype).removeprefix("torch.")
    notes = [text for text in runs["not told"].problems if "no scaler was given" in text]
    assert len(notes) == (dtype == torch.float16)
    assert runs["told"].problems == ()


# ---- recomputation ----------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("backwards", ["each", "last"])
def test_several_forwards_a_step_are_each_counted_once(
    reentrant: bool | None,  # noqa: FBT001
    backwards: str,
    tmp_path: Path,
) -> None:
    """Micro-batches with a backward each, or one backward of the sum of their losses."""
    model = tiny(checkpointing=reentrant)
    batches = [tokens(seed=seed) for seed in range(3)]
    with fp.attach(
        model, to=tmp_path / "run", example=tokens(), gradients=True, rows="all"
    ) as probe:
        for _ in range(2):
            total = torch.zeros(())
            for batch in batches:
                loss = loss_of(model(**batch), batch)
                if backwards == "each":
                    loss.backward()
                total = total + loss
            if backwards == "last":
                total.backward()
            probe.step()
    run = probe.run
    assert run.rows("layers.0/gate")[0] == 2 * 3 * 21
    assert_close(run, 2 * [gradients_of(tiny(), batch) for batch in batches], rel=1e-5)
    doubted = [text for text in run.problems if "recomputed in one backward" in text]
    assert len(doubted) == (2 if reentrant and backwards == "last" else 0)
    assert len(run.problems) == len(doubted)


def padded(seed: int, length: int) -> dict[str, Tensor]:
    batch = tokens(seed=seed)
    return batch | {"attention_mask": (torch.arange(7) < length).long().expand(3, 7)}


def test_padding_of_an_earlier_forward_is_not_taken_for_that_of_the_last(
    tmp_path: Path,
) -> None:
    """With reentrant checkpoints nobody knows whose rows come back: all count."""
    rows = {}
    for reentrant in (False, True):
        model = tiny(checkpointing=reentrant)
        to = tmp_path / str(reentrant)
        with fp.attach(model, to=to, example=tokens(), gradients=True) as probe:
            sum(model(**padded(k, 2 + 3 * k)).square().mean() for k in range(2)).backward()
        rows[reentrant] = probe.run.rows("layers.0/grad_gate")[0]
        assert probe.run.rows("layers.0/gate")[0] == 3 * (2 + 5)
    assert rows == {False: 3 * (2 + 5), True: 2 * 21}


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_a_training_is_bit_for_bit_the_one_without(
    checkpointing: bool | None,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """Also with everything on: gradients, a scaler, weights, sinks, alarms."""
    states = []
    for probed in (False, True):
        model, scaler = tiny(checkpointing=checkpointing, dropout=0.2), scaled(2.0**8)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        probe = fp.attach(
            model, to=tmp_path / str(probed), example=tokens(), gradients=True, window=2,
            scaler=scaler, weights_every=1, sinks=[lambda _, __: None],
        )  # fmt: skip
        torch.manual_seed(5)
        if probed:
            probe.__enter__()
        for seed in range(5):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model(**tokens(seed=seed)), tokens(seed=seed))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if probed:
                probe.step(loss=loss)
        if probed:
            probe.__exit__(None, None, None)
        states.append((model.state_dict(), scaler.state_dict(), torch.get_rng_state()))
    (bare, scale, noise), (watched, other, after) = states
    assert all(torch.equal(bare[key], watched[key]) for key in bare)
    assert scale == other
    assert torch.equal(noise, after)

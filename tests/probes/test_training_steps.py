"""Windows are made of optimizer steps, however many forwards and backwards a step took."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ffn_probe as fp
from ffn_probe.errors import AttachError, ModelError, UnknownName
from tests.probes.models import Tiny, tiny, tokens

ROWS = 21  # of a batch


def loss_of(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch["input_ids"].flatten())


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def train(model: nn.Module, to: Path, *, steps: int, parts: int, **options: Any) -> fp.Run:
    """Train with `parts` forwards and backwards a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fp.attach(model, to=to, example=tokens(), **options) as probe:
        for step in range(steps):
            for part in range(parts):
                batch = tokens(seed=step * parts + part)
                (loss_of(model(**batch), batch) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.step(loss=float(step))
    return probe.run


def spans(run: fp.Run) -> list[tuple[int, int, int]]:
    """First and last step, and rows, of every window of a gate."""
    frame = run.trends(["rms"], site="layers.0/gate")
    return list(frame[["first_step", "last_step", "rows"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_a_window_holds_steps_and_not_forwards(parts: int, tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", steps=5, parts=parts, window=2, gradients=True)
    assert (run.manifest.steps, run.manifest.windows) == (5, 3)
    rows = ROWS * parts
    assert spans(run) == [(0, 1, 2 * rows), (2, 3, 2 * rows), (4, 4, rows)]
    assert run.table("metrics")["step"].tolist() == [0, 1, 2, 3, 4]
    assert run.table("metrics")["value"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    for role in ("gate", "grad_gate"):
        assert run.rows(f"layers.0/{role}")[0] == 5 * rows
        steps = run.summary(f"layers.0/{role}").extremes.top["step"].tolist()
        assert set(steps) <= set(range(5))
        assert run.problems == ()


def test_the_forwards_before_the_first_call_of_step_are_of_step_0(tmp_path: Path) -> None:
    model = tiny().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens()) as probe:
        for seed in range(6):
            model(**tokens(seed=seed))
        probe.step(loss=1.0)
        model(**tokens(seed=9))
        probe.step(loss=2.0)
    top = probe.run.summary("layers.1/hidden").extremes.top
    assert set(top["step"].tolist()) <= {0, 1}
    assert probe.run.manifest.steps == 2
    assert probe.run.table("metrics")["step"].tolist() == [0, 1]


def test_a_first_step_longer_than_a_window_is_one_step_when_it_is_said(tmp_path: Path) -> None:
    for said, expected in ((True, [(0, 0)]), (False, [(0, 1), (2, 3), (4, 4)])):
        model = tiny().eval()
        to = tmp_path / str(said)
        with fp.attach(model, to=to, example=tokens(), window=2) as probe:
            if said:
                probe.expect_steps()
            for seed in range(5):
                model(**tokens(seed=seed))
            probe.step()
        assert [(a, b) for a, b, _ in spans(probe.run)] == expected


def test_a_loop_that_never_says_its_steps_has_a_window_of_forwards_all_the_same(
    tmp_path: Path,
) -> None:
    """After the optimizer's first step nobody waits for a call of `step`."""
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fp.attach(model, to=tmp_path / "run", example=tokens(), window=2) as probe:
        for k in range(8):
            loss_of(model(**tokens(seed=k)), tokens(seed=k)).backward()
            if k >= 4:
                optimizer.step()
    assert [(a, b) for a, b, _ in spans(probe.run)] == [(0, 4), (5, 6), (7, 7)]


def test_steps_between_the_watched_ones_are_not_counted_into_windows(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", steps=9, parts=2, every=3, window=2)
    # Of step 0 one forward of two is seen: only the call of `step` says that it had two.
    assert spans(run)[1:] == [(6, 6, 2 * ROWS)]
    assert run.manifest.steps == 9


def test_validation_between_steps_is_left_out_when_only_training_is_watched(
    tmp_path: Path,
) -> None:
    runs = {}
    for when in ("always", "training", "evaluation"):
        model = tiny()
        with fp.attach(model, to=tmp_path / when, example=tokens(), when=when) as probe:
            for step in range(4):
                model.train()
                loss_of(model(**tokens(seed=step)), tokens(seed=step)).backward()
                model.eval()
                with torch.no_grad():
                    model(**tokens(sequences=5, seed=99))
                probe.step()
        runs[when] = probe.run
        assert hooks_of(model) == 0
    rows = {when: run.rows("layers.0/gate")[0] for when, run in runs.items()}
    assert rows == {"always": 4 * 56, "training": 4 * ROWS, "evaluation": 4 * 35}
    assert all(run.manifest.steps == 4 for run in runs.values())
    alone = fp.record(tiny(), [tokens(seed=step) for step in range(4)], to=tmp_path / "alone")
    hashes = [[f["hash"] for f in run.manifest.folds] for run in (runs["training"], alone)]
    assert hashes[0] == hashes[1]
    with pytest.raises(
        UnknownName, match=r"no time to watch .* 'train'.*Did you mean 'training'"
    ):
        fp.attach(tiny(), to=tmp_path / "x", example=tokens(), when="train")


# Frozen blocks


def test_frozen_blocks_are_said(tmp_path: Path) -> None:
    model = tiny(layers=3)
    for part in (model.embedding, model.layers[0], model.layers[1]):
        part.requires_grad_(requires_grad=False)
    run = train(model, tmp_path / "run", steps=2, parts=1, gradients=True)
    gradients = {s.name for s in run.sites if s.role.startswith("grad_")}
    assert {name.split("/")[0] for name in gradients} == {"layers.2"}
    (note,) = run.problems
    assert note == (
        "no gradient was seen at 14 of 21 sites (first: layers.0/resid): nothing before them "
        "is trained (frozen), or they run under no_grad"
    )


def test_a_training_without_any_backward_is_said(tmp_path: Path) -> None:
    model = tiny()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), gradients=True) as probe:
        model(**tokens())
        probe.step()
    assert "no gradient was seen at any site: no backward ran" in probe.run.problems[0]


# What goes wrong


@pytest.mark.parametrize("where", ["forward", "backward", "step"])
def test_an_error_that_the_loop_survives_costs_its_batch_only(
    where: str, tmp_path: Path
) -> None:
    """A loop that skips a batch that failed (out of memory) goes on being watched."""
    model = tiny()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), gradients=True) as probe:
        for step in range(4):
            try:
                failing = where if step == 1 else ""
                one_step(model, tokens(seed=step), failing)
            except (ZeroDivisionError, IndexError):
                pass
            probe.step(loss=1.0)
    run = probe.run
    assert run.closed
    assert hooks_of(model) == 0
    assert len(torch.overrides._get_current_function_mode_stack()) == 0
    assert run.rows("layers.1/out")[0] == ROWS * (3 if where == "forward" else 4)
    assert run.rows("layers.1/grad_out")[0] == ROWS * (4 if where == "step" else 3)
    assert run.manifest.steps == 4


def one_step(model: Tiny, batch: dict[str, Tensor], failing: str) -> None:
    if failing == "forward":
        model(torch.full((1, 3), 1000))
    loss = loss_of(model(**batch), batch)
    if failing == "backward":
        raise ZeroDivisionError
    loss.backward()
    if failing == "step":
        raise ZeroDivisionError


def test_a_metric_of_several_numbers_is_refused_where_it_is_given(tmp_path: Path) -> None:
    model = tiny().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens()) as probe:
        model(**tokens())
        with pytest.raises(AttachError, match=r"loss is a tensor of the shape \(3,\)"):
            probe.step(loss=torch.zeros(3))
        running = torch.zeros(1)
        probe.step(loss=running, rate=1.0)
        running += 5  # what is kept is the number as it was
    assert probe.run.table("metrics")["value"].tolist() == [0.0, 1.0]


# Wrappers


def test_data_parallel_is_watched_on_one_device_and_refused_on_several(tmp_path: Path) -> None:
    model = nn.DataParallel(tiny())
    run = train(model, tmp_path / "run", steps=2, parts=1, gradients=True)
    assert {s.block for s in run.sites} == {"module.layers.0", "module.layers.1"}
    model.device_ids = [0, 1]
    with pytest.raises(ModelError, match=r"over several devices.*DistributedData"):
        fp.attach(model, to=tmp_path / "x", example=tokens())
    with pytest.raises(ModelError, match="inner is a DataParallel"):
        fp.attach(nn.ModuleDict({"inner": model}), to=tmp_path / "x", example=tokens())


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """A group of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("inner", [False, True])
def test_under_ddp_the_numbers_are_those_of_the_bare_model(
    inner: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """Whether the probe is on the wrapper or on the module inside of it."""
    plain = train(tiny(), tmp_path / "plain", steps=3, parts=2, gradients=True)
    wrapped = nn.parallel.DistributedDataParallel(tiny())
    watched = wrapped.module if inner else wrapped
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    with fp.attach(watched, to=tmp_path / "ddp", example=tokens(), gradients=True) as probe:
        for step in range(3):
            for part in range(2):
                batch = tokens(seed=step * 2 + part)
                (loss_of(wrapped(**batch), batch) / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.step(loss=float(step))
    prefix = "" if inner else "module."
    for site in plain.sites:
        assert probe.run.summary(prefix + site.name).moments == plain.summary(site).moments
    assert len(probe.run.sites) == len(plain.sites)


# Telling


def test_a_training_that_breaks_away_is_told_while_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Hidden values that double every few steps are told before they overflow."""
    model, told = tiny(), []
    with (
        caplog.at_level(logging.WARNING, "ffn_probe"),
        fp.attach(
            model,
            to=tmp_path / "run",
            example=tokens(),
            window=1,
            on_alarm=told.append,
            blocks="layers.1",
            roles=["resid", "hidden", "out"],
        ) as probe,
    ):
        for _ in range(40):
            model(**tokens())
            with torch.no_grad():
                model.layers[1].up.weight.mul_(1.5)
                model.layers[1].up.bias.mul_(1.5)
            probe.step(loss=1.0)
        assert probe.alarms == tuple(told)
    of_hidden = [a for a in told if a.alarm.where == "layers.1/hidden"]
    assert [(a.alarm.kind, "fp16" in a.alarm.text) for a in of_hidden] == [
        ("growth", False), ("growth", True), ("limit", False), ("limit", True),
    ]  # fmt: skip
    assert of_hidden[1].last_step < of_hidden[3].last_step - 10
    assert of_hidden[1].alarm.value == pytest.approx(of_hidden[3].last_step, abs=2)
    assert [record.getMessage() for record in caplog.records] == [str(a) for a in told]
    assert [line for line in probe.run.problems if "growth at layers.1/hidden" in line]
    assert probe.run.problems[-1].startswith("alarms: branch at layers.1/out (step 12) moved")


def test_a_nan_is_told_with_its_step_and_token_and_stays_in_a_killed_run(
    tmp_path: Path,
) -> None:
    model = tiny().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), window=4) as probe:
        for step in range(8):
            batch = tokens(seed=step)
            if step == 5:
                with torch.no_grad():
                    model.embedding.weight[int(batch["input_ids"][2, 4])] = torch.nan
            model(**batch)
            probe.step(loss=1.0)
        # The embedding of one token is NaN; the causal mean carries it from there on.
        ids = tokens(seed=5)["input_ids"]
        row, position = (int(x) for x in (ids == ids[2, 4]).nonzero()[0])
        (note,) = fp.Run.open(tmp_path / "run").manifest.warnings
    expected = f"token {int(ids[row, position])}, sequence {row}, position {position}"
    assert note.startswith(f"alarm, step 5: non-finite at layers.0/resid ({expected}): ")
    assert "after it 13 more sites" in note


def test_a_healthy_training_and_a_recording_tell_nothing(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", steps=12, parts=1, window=1, roles=["hidden", "out"])
    assert run.problems == ()
    model = tiny().eval()
    with torch.no_grad():
        model.layers[0].down.weight.mul_(1e6)
    assert fp.record(model, [tokens()], to=tmp_path / "record").problems == ()

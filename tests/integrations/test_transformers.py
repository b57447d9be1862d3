"""A training of transformers.Trainer is recorded by its optimizer steps, and is not changed."""

import gc
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

import ffn_probe as fp
from ffn_probe.errors import ExampleError, FfnProbeError

transformers: Any = importlib.import_module("transformers")
importlib.import_module("accelerate")
importlib.import_module(
    "transformers.trainer"
)  # here: our import hook compiles what it imports

from ffn_probe.integrations.transformers_callback import ProbeCallback  # noqa: E402

LENGTH = 8


class Sentences(Dataset[dict[str, Tensor]]):
    """Sequences of random tokens, some of which fail."""

    def __init__(self, count: int = 48, failing: int = -1) -> None:
        self.count = count
        self.failing = failing
        self.read = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read += 1
        if self.read == self.failing:
            raise ZeroDivisionError
        noise = torch.randint(1, 3, (1,))  # draws from the global generator, as augmenting does
        made = torch.Generator().manual_seed(index)
        ids = (torch.randint(60, (LENGTH,), generator=made) + noise) % 61
        return {"input_ids": ids, "labels": ids}


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Any:
        return iter(Sentences()[i] for i in range(48))


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)  # type: ignore[no-any-return]


def trainer(
    folder: Path, callbacks: list[Any], *, data: Any = None, test: Any = None, **options: Any
) -> Any:
    """A Trainer of 6 optimizer steps of 2 batches of 4 sequences each."""
    chosen = {
        "output_dir": str(folder / "trainer"), "max_steps": 6, "use_cpu": True,
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4,
        "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True,
        "seed": 1, "learning_rate": 1e-2, "dataloader_pin_memory": False,
    } | options  # fmt: skip
    return transformers.Trainer(
        model=llama(),
        args=transformers.TrainingArguments(**chosen),
        train_dataset=data or Sentences(),
        eval_dataset=test,
        callbacks=callbacks,
    )


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_steps_are_those_of_the_optimizer_with_the_numbers_of_the_logs(tmp_path: Path) -> None:
    callback = ProbeCallback(tmp_path / "run", window=2, gradients=True)
    made = trainer(tmp_path, [callback])
    made.train()
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert hooks_of(made.model) == 0
    assert (run.manifest.steps, run.manifest.windows) == (6, 3)
    assert [f["batches"] for f in run.manifest.folds] == [1] * 12 + [0] * 4
    rows = 6 * 2 * 4 * LENGTH
    for role in ("hidden", "grad_hidden"):
        assert run.rows(f"model.layers.1.mlp/{role}")[0] == rows
    logged = {name: [] for name in ("loss", "grad_norm", "lr")}  # type: dict[str, list[float]]
    for entry in made.state.log_history:
        for name, key in (
            ("loss", "loss"),
            ("grad_norm", "grad_norm"),
            ("lr", "learning_rate"),
        ):
            if key in entry:
                logged[name].append(entry[key])
    metrics = run.table("metrics")
    for name, values in logged.items():
        kept = metrics[metrics["name"] == name].sort_values("step")
        assert kept["step"].tolist() == [0, 1, 2, 3, 4, 5]
        assert kept["value"].tolist() == pytest.approx(values)


def test_the_training_is_bit_for_bit_the_one_without(tmp_path: Path) -> None:
    states = []
    for name, callbacks in (
        ("bare", []),
        ("probed", [ProbeCallback(tmp_path / "run", gradients=True, weights_every=1)]),
    ):
        made = trainer(tmp_path / name, callbacks)
        made.train()
        states.append(made.model.state_dict())
    bare, probed = states
    assert list(bare) == list(probed)
    assert all(torch.equal(bare[key], probed[key]) for key in bare)


def test_evaluation_in_between_is_not_part_of_the_windows(tmp_path: Path) -> None:
    callback = ProbeCallback(tmp_path / "run", window=1)
    made = trainer(tmp_path, [callback], test=Sentences(8), eval_strategy="steps", eval_steps=2)
    made.train()
    run = fp.Run.open(tmp_path / "run")
    assert run.rows("model.layers.0.mlp/out")[0] == 6 * 2 * 4 * LENGTH
    metrics = run.table("metrics")
    assert metrics[metrics["name"] == "eval_loss"]["step"].tolist() == [1, 3, 5]
    assert set(metrics["name"]) == {"loss", "grad_norm", "lr", "eval_loss"}


def test_an_error_closes_the_run_and_takes_the_probe_off(tmp_path: Path) -> None:
    made: Any = None

    def fail() -> None:
        nonlocal made
        with ProbeCallback(tmp_path / "run", window=1) as callback:
            made = trainer(tmp_path, [callback], data=Sentences(failing=23))
            made.train()

    with pytest.raises(ZeroDivisionError):
        fail()
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert hooks_of(made.model) == 0
    assert 0 < run.manifest.steps < 6


def test_without_a_with_the_run_is_closed_when_the_callback_is_forgotten(
    tmp_path: Path,
) -> None:
    made = trainer(
        tmp_path, [ProbeCallback(tmp_path / "run", window=1)], data=Sentences(failing=23)
    )
    with pytest.raises(ZeroDivisionError):
        made.train()
    model = made.model
    assert hooks_of(model) > 0
    assert not fp.Run.open(tmp_path / "run").closed
    del made
    gc.collect()
    assert fp.Run.open(tmp_path / "run").closed
    assert hooks_of(model) == 0


def test_a_stream_needs_an_example(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r"no sample of Stream.*example=\.\.\."):
        trainer(tmp_path, [ProbeCallback(tmp_path / "a")], data=Stream()).train()
    assert not (tmp_path / "a").exists()
    example = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}
    callback = ProbeCallback(tmp_path / "b", example=example)
    trainer(tmp_path, [callback], data=Stream(), max_steps=2).train()
    assert fp.Run.open(tmp_path / "b").manifest.steps == 2


def test_two_trainings_at_once_are_refused(tmp_path: Path) -> None:
    callback = ProbeCallback(tmp_path / "run")
    callback.recording.begin(llama(), {"input_ids": torch.zeros(1, 4, dtype=torch.long)})
    with pytest.raises(FfnProbeError, match="is still being recorded"):
        trainer(tmp_path, [callback]).train()
    with pytest.raises(FfnProbeError, match="nothing was recorded"):
        callback.recording.end()


def test_recomputation_is_not_counted_twice(tmp_path: Path) -> None:
    for reentrant in (False, True):
        to = tmp_path / str(reentrant)
        made = trainer(
            tmp_path, [ProbeCallback(to, gradients=True)], max_steps=2,
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": reentrant},
        )  # fmt: skip
        made.train()
        run = fp.Run.open(to)
        for role in ("gate", "grad_gate", "out"):
            assert run.rows(f"model.layers.1.mlp/{role}")[0] == 2 * 2 * 4 * LENGTH
        assert run.problems == ()

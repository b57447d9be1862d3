"""A training of Lightning is recorded by its optimizer steps, and is not changed."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import ffn_probe as fp
from ffn_probe.errors import ModelError
from tests.probes.models import tiny, tokens

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of deprecations of its own

lightning: Any = importlib.import_module("lightning.pytorch")

from ffn_probe.integrations.lightning_callback import LightningProbe  # noqa: E402

ROWS = 4 * 7  # of a batch


class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self, failing: int = -1) -> None:
        super().__init__()
        self.model = tiny(dropout=0.1)
        self.failing = failing

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        if index == self.failing:
            raise ZeroDivisionError
        loss = self.loss(batch)
        self.log("twice", 2 * loss.detach())
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        del index
        self.log("valid", self.loss(batch))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.model(batch["input_ids"]).flatten(0, 1).float()
        return functional.cross_entropy(logits, batch["input_ids"].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> DataLoader[Any]:
    data: Any = [{"input_ids": tokens(1, seed=i)["input_ids"][0]} for i in range(24)]
    return DataLoader(data, batch_size=4)


def fit(
    folder: Path, callbacks: list[Any], module: Module | None = None, **options: Any
) -> Any:
    """Three optimizer steps of two batches each, and a validation."""
    lightning.seed_everything(1)
    module = module or Module()
    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=2, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=callbacks, default_root_dir=str(folder), **options,
    )  # fmt: skip
    trainer.fit(module, loader(), loader())
    return module


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_steps_are_those_of_the_optimizer(tmp_path: Path) -> None:
    callback = LightningProbe(tmp_path / "run", window=2, gradients=True)
    module = fit(tmp_path, [callback])
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert hooks_of(module) == 0
    assert (run.manifest.steps, run.manifest.windows) == (3, 2)
    for role in ("hidden", "grad_hidden"):
        assert run.rows(f"layers.1/{role}")[0] == 6 * ROWS
    metrics = run.table("metrics")
    values = {
        name: metrics[metrics["name"] == name].sort_values("step")["value"].tolist()
        for name in ("loss", "twice", "lr")
    }
    assert values["lr"] == [0.1] * 3
    assert [len(v) for v in values.values()] == [3, 3, 3]


def test_the_training_is_bit_for_bit_the_one_without(tmp_path: Path) -> None:
    probe = LightningProbe(tmp_path / "run", gradients=True)
    bare, probed = (fit(tmp_path, cbs).state_dict() for cbs in ([], [probe]))
    assert all(torch.equal(bare[key], probed[key]) for key in bare)


def test_an_error_closes_the_run_and_takes_the_probe_off(tmp_path: Path) -> None:
    module = Module(failing=4)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [LightningProbe(tmp_path / "run", window=1)], module)
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert run.manifest.steps == 2
    assert hooks_of(module) == 0


def test_a_scaler_of_lightning_is_undone(tmp_path: Path) -> None:
    """In float16 the loss is scaled by 2^10 (an own scaler): gradients come out as without."""
    plugins: Any = importlib.import_module("lightning.pytorch.plugins")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    mixed = plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
    for name, some in (("plain", {}), ("mixed", {"plugins": [mixed]})):
        options = {"to": tmp_path / name, "gradients": True, "window": 1}
        fit(tmp_path, [LightningProbe(**options)], **some)
    rms = [
        fp.Run.open(tmp_path / name).summary("layers.1/grad_hidden").moments.rms
        for name in ("plain", "mixed")
    ]
    assert rms[1] == pytest.approx(rms[0], rel=0.05)


def test_a_module_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Module has no module 'net'; it has: model\."):
        fit(tmp_path, [LightningProbe(tmp_path / "run", module="net")])

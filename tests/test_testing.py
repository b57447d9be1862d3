"""`assert_no_drift`: silent on a faithful candidate, and a message that says why on another."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ffn_probe.attribution import Attribution
from ffn_probe.errors import BudgetError, FfnProbeError, UnknownName
from ffn_probe.runs import Run
from ffn_probe.testing import DriftError, _alike, assert_no_drift
from tests.cli.two_models import Wide
from tests.cli.user_code import Net, data, model

BATCHES = data()[:4]


class Quick(nn.Module):
    """The second layer of a net with quick GELU for GELU."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.embedding = net.embedding
        self.layers = net.layers

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](self.embedding(input_ids))
        layer = self.layers[1]
        up = layer.up(layer.norm(x))
        return x + layer.down(up * torch.sigmoid(1.702 * up))


def test_a_copy_does_not_drift() -> None:
    net = model()
    told = assert_no_drift(net, copy.deepcopy(net), BATCHES)
    assert isinstance(told, Attribution)
    assert told.status == "indistinguishable"


def test_another_order_of_the_same_sums_is_no_drift() -> None:
    net = model()
    port = copy.deepcopy(net)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in port.layers:
            layer.up.weight[:] = layer.up.weight[order]
            layer.up.bias[:] = layer.up.bias[order]
            layer.down.weight[:] = layer.down.weight[:, order]
    assert_no_drift(net, port, BATCHES, budget={"out.sqnr_db": ">= 90"}, autopsy=False)


def test_a_planted_bug_is_named_with_its_layer() -> None:
    net = model()
    with pytest.raises(DriftError) as caught:
        assert_no_drift(net, Quick(model()), BATCHES)
    text = str(caught.value)
    assert text.startswith("the candidate drifts from the reference: nothing may be above")
    assert "Layer 1" in text
    assert "quick_gelu" in text
    assert caught.value.judgement is None
    assert caught.value.attribution.first_bad is not None
    assert caught.value.attribution.first_bad[0] == 1


def test_a_budget_forgives_what_it_allows() -> None:
    loose, tight = {"out.sqnr_db": ">= 20"}, {"out.sqnr_db": ">= 80"}
    assert_no_drift(model(), Quick(model()), BATCHES, budget=loose, autopsy=False)
    with pytest.raises(AssertionError) as caught:
        assert_no_drift(model(), Quick(model()), BATCHES, budget=tight, autopsy=False)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("dB < 80.")
    assert lines[1].startswith("  layer 1 out (layers.1), out.sqnr_db >= 80: ")
    assert len([line for line in lines if line.startswith("  layer")]) == 1


def test_a_swap_makes_the_candidate() -> None:
    with pytest.raises(DriftError, match="Over budget"):
        assert_no_drift(
            model(), None, BATCHES, swap="activation=relu", autopsy=False,
            budget={"out.sqnr_db": ">= 60"},
        )  # fmt: skip


def test_the_run_and_the_report_are_kept_where_asked(tmp_path: Path) -> None:
    run, page = tmp_path / "run", tmp_path / "why.html"
    with pytest.raises(DriftError) as caught:
        assert_no_drift(model(), Quick(model()), BATCHES, to=run, report=page, autopsy=False)
    assert Run.open(run).manifest.kind == "paired"
    assert "Why did it drift?" in page.read_text()
    assert f"report: {page}\nrun: {run}" in str(caught.value)


def test_nothing_is_left_behind_and_no_report_is_written_without_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert_no_drift(model(), model(), BATCHES, report=tmp_path / "x.html", autopsy=False)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_the_budget_is_found_before_the_models_run() -> None:
    class Never(nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            raise AssertionError(f"it ran on {input_ids.shape}")

    with pytest.raises(UnknownName, match="Did you mean 'sqnr_db'"):
        assert_no_drift(Never(), Never(), BATCHES, budget={"out.sqnr": ">= 40"})
    with pytest.raises(BudgetError, match="cannot read"):
        assert_no_drift(Never(), Never(), BATCHES, budget="nowhere.toml")
    with pytest.raises(FfnProbeError, match="no report format"):
        assert_no_drift(Never(), Never(), BATCHES, report="x.xls")


def test_models_that_cannot_be_compared_are_not_taken_for_equal() -> None:
    with pytest.raises(DriftError, match="16 and 24 channels"):
        assert_no_drift(model(), Wide(), BATCHES, autopsy=False)


def test_nothing_compared_is_no_proof() -> None:
    empty = Attribution("a", "b", "indistinguishable", "", None, ())
    assert not _alike(empty)


def test_the_models_are_as_before() -> None:
    net = model().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert_no_drift(net, copy.deepcopy(net), BATCHES, autopsy=False)
    assert net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_it_is_imported_without_pytest() -> None:
    code = "import sys; import ffn_probe.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

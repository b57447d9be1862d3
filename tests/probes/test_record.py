"""Recording survives what goes wrong, and refuses what it cannot record."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ffn_probe as fp
from ffn_probe.errors import ExampleError, FfnProbeError, ModelError, RunError
from tests.probes.models import VOCABULARY, tiny, tokens

ROOT = Path(__file__).parents[2]


def test_no_batches_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match="no batches to record"):
        fp.record(tiny(), [], to=tmp_path / "a" / "run")
    assert not (tmp_path / "a").exists()


def test_a_batch_that_fails_keeps_what_came_before(tmp_path: Path) -> None:
    bad = {"input_ids": torch.full((2, 3), VOCABULARY + 7)}
    batches = [tokens(seed=0), tokens(seed=1), bad, tokens(seed=2)]
    with pytest.raises(ExampleError, match=r"rejected batch 2 .*2, 3.*The 2 batches before"):
        fp.record(tiny(), batches, to=tmp_path / "run")
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert run.rows("layers.0/out")[0] == 2 * 21


def test_an_interrupt_closes_the_run_and_passes_on(tmp_path: Path) -> None:
    def stream() -> Iterator[dict[str, Tensor]]:
        for seed in range(5):
            yield tokens(seed=seed)
        raise KeyboardInterrupt

    model = tiny()
    with pytest.raises(KeyboardInterrupt):
        fp.record(model, stream(), to=tmp_path / "run")
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert run.rows("layers.1/gate")[0] == 5 * 21
    assert model.training


KILLED = """
import sys, itertools, torch
sys.path.insert(0, {root!r})
import ffn_probe as fp
from tests.probes.models import tiny, tokens
def stream():
    for k in itertools.count():
        print(k, flush=True)
        yield tokens(seed=k % 7)
fp.record(tiny(), stream(), to={to!r}, window=2)
"""


@pytest.mark.parametrize("after", [5, 12])
def test_a_kill_loses_at_most_the_open_window(after: int, tmp_path: Path) -> None:
    to = tmp_path / "run"
    code = KILLED.format(root=str(ROOT), to=str(to))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == after:
                os.kill(process.pid, signal.SIGKILL)
                break
    run = fp.Run.open(to)
    assert not run.closed
    assert any("not closed" in text for text in run.problems)
    whole = (after // 2) * 2  # batches in complete windows when batch `after` was asked for
    assert whole - 2 <= run.rows("layers.0/gate")[0] // 21 <= after + 1
    assert run.rows("layers.0/gate")[0] % 42 == 0
    for site in run.sites:
        run.summary(site)
    again = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "exists already" in again.stderr


def test_two_recorders_on_one_path_are_refused(tmp_path: Path) -> None:
    code = KILLED.format(root=str(ROOT), to=str(tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 1:
                break
        with pytest.raises(RunError, match=f"being recorded by process {process.pid}"):
            fp.record(tiny(), [tokens()], to=tmp_path / "run")
        process.kill()


def test_a_path_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        fp.record(tiny(), [tokens()], to=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


class NoFfn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.one(x)


def test_models_that_cannot_be_watched_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no FFN in NoFfn"):
        fp.record(NoFfn(), [torch.ones(2, 4)], to=tmp_path / "run")
    with torch.device("meta"):
        empty = tiny()
    with pytest.raises(ModelError, match="meta device"):
        fp.record(empty, [tokens()], to=tmp_path / "run")
    packed = tiny()
    packed.layers[0].gate.weight = nn.Parameter(
        torch.ones(40, 16, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(ModelError, match=r"quantized or packed \(first: layers\.0\.gate"):
        fp.record(packed, [tokens()], to=tmp_path / "run")
    with pytest.raises(ExampleError, match="rejected the example"):
        fp.record(tiny(), [torch.ones(2, 3, 4)], to=tmp_path / "run")
    with pytest.raises(FfnProbeError, match="forward passes only"):
        fp.record(tiny(), [tokens()], to=tmp_path / "run", gradients=True)
    assert not (tmp_path / "run").exists()


def test_weights_of_nan_are_recorded(tmp_path: Path) -> None:
    healthy = tiny()
    found = fp.discover(healthy, tokens())
    with torch.no_grad():
        healthy.layers[1].up.weight[3, 2] = torch.nan
    run = fp.record(healthy, [tokens()], to=tmp_path / "run", found=found)
    assert run.summary("layers.1/value").extremes.nan == 21
    assert run.summary("layers.1/value").moments.count == 39 * 21
    assert run.summary("layers.0/out").extremes.nan == 0
    frame = run.measures(["nonfinite"]).set_index(["block", "role"])["value"]
    assert frame["layers.1", "hidden"] == 21
    assert frame["layers.1", "out"] == 21 * 16


def test_a_model_of_nan_from_the_start_is_recorded(tmp_path: Path) -> None:
    broken = tiny()
    with torch.no_grad():
        broken.embedding.weight.fill_(torch.nan)
    run = fp.record(broken, [tokens()], to=tmp_path / "run")
    assert run.summary("layers.0/resid").extremes.nan == 21 * 16
    assert run.summary("layers.0/resid").moments.count == 0


def test_generation_with_a_cache_has_the_right_positions(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = (ids != 0).long()
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": mask}
    expected = model.generate(ids, **options)
    found = fp.discover(model, {"input_ids": ids})
    with fp.attach(model, to=tmp_path / "run", found=found) as probe:
        assert torch.equal(model.generate(ids, **options), expected)
    run = probe.run
    (block,) = run.blocks
    # The prompt's 8 real tokens, then 3 steps of 2 sequences: the last token is never fed.
    assert run.rows(f"{block.name}/gate")[0] == 8 + 6
    assert run.manifest.folds[0]["batches"] == 1
    top = run.summary(f"{block.name}/gate").extremes.top
    for row in top:
        shift = 2 if row["sequence"] == 0 else 0
        assert expected[row["sequence"], row["position"] + shift] == row["token"]

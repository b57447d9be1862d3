"""Probes are part of the graphs of torch.compile, and record what they record in eager mode."""

import copy
import dataclasses
import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import ffn_probe as fp
from ffn_probe.errors import AttachError, ModelError
from ffn_probe.probes.exported import check_not_exported
from ffn_probe.runs import Run
from sample_runs.tiny_lm import VARIANTS, TinyLM
from tests.probes.models import Layer, Tiny, tokens

BATCHES = [tokens(seed=seed) for seed in range(3)]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No graph of another test is there, and none is left."""
    torch._dynamo.reset()
    counters.clear()
    trace = logging.getLogger("torch.__trace")
    trace.propagate = False  # pytest would keep and format thousands of records
    yield
    trace.propagate = True
    torch._dynamo.reset()


def graphs() -> int:
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


def sample(variant: str = "rms-swiglu", layers: int = 1) -> TinyLM:
    torch.manual_seed(0)
    shape = dataclasses.replace(VARIANTS[variant], layers=layers, d_ff=40)
    return TinyLM(shape).eval()


def compiled(model: nn.Module, backend: str = "eager") -> Any:
    return torch.compile(model, backend=backend, fullgraph=True)


def recorded(
    model: nn.Module, call: Callable[..., Any], to: Path, **options: Any
) -> tuple[Run, Any]:
    """Return the run of the batches through `call`, and what it returned for the last."""
    output = None
    with fp.attach(model, to=to, example=BATCHES[0], **options) as probe, torch.no_grad():
        for batch in BATCHES:
            output = call(**batch)
            probe.step()
    return probe.run, getattr(output, "logits", output)


def tables(run: Run) -> dict[str, list[Any]]:
    """Return every number of the run, without the date and the seconds."""
    found = {}
    for site in run.sites:
        summary = run.summary(site)
        found[str(site)] = [
            run.rows(site),
            dataclasses.astuple(summary.moments),
            summary.histogram.counts.tolist(),
            summary.channels.rms.tolist(),
            summary.extremes.top.tolist(),
            None if summary.joint is None else summary.joint.grid.tolist(),
        ]
    hashes = [fold["hash"] for fold in run.manifest.folds]
    return found | {"hashes": hashes, "warnings": list(run.manifest.warnings)}


# The same statistics


@pytest.mark.parametrize(
    ("variant", "backend"), [("ln-gelu", "aot_eager"), ("rms-swiglu", "eager")]
)
def test_a_compiled_model_gives_the_run_of_the_eager_one(
    tmp_path: Path, variant: str, backend: str
) -> None:
    model = sample(variant)
    eager, wanted = recorded(model, model, tmp_path / "eager")
    run, output = recorded(model, compiled(model, backend), tmp_path / "compiled")
    assert torch.equal(output, wanted)
    assert graphs() == 1
    assert tables(run) == tables(eager)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor_gives_the_run_of_the_eager_model_up_to_rounding(tmp_path: Path) -> None:
    model = sample()
    eager, _ = recorded(model, model, tmp_path / "eager")
    fast = compiled(model, "inductor")
    with torch.no_grad():
        bare = fast(**BATCHES[-1])
    run, output = recorded(model, fast, tmp_path / "compiled")
    assert torch.allclose(output, bare, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(fast(**BATCHES[-1]), bare)  # the graph without probes is back
    assert graphs() == 2
    assert run.sites == eager.sites
    for site in run.sites:
        one, other = run.summary(site), eager.summary(site)
        assert one.moments.count == other.moments.count
        assert one.moments.std == pytest.approx(other.moments.std, rel=1e-4)
        moved = np.abs(one.histogram.counts - other.histogram.counts).sum()
        assert moved <= 0.01 * one.moments.count
        assert one.extremes.rows == other.extremes.rows


def hugging_face(kind: str, **options: Any) -> nn.Module:
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
    return model.eval()


MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("kind", "options", "experts"),
    [
        pytest.param("Llama", {}, 0, id="llama"),
        pytest.param("Phi3", {}, 0, id="fused gate and up"),
        pytest.param("Mixtral", MIXTURE, 4, id="packed experts"),
        pytest.param("GptOss", MIXTURE | {"head_dim": 16}, 4, id="packed experts with biases"),
    ],
)
def test_models_of_transformers_are_watched_in_one_graph(
    tmp_path: Path, kind: str, options: dict[str, Any], experts: int
) -> None:
    model = hugging_face(kind, **options)
    eager, wanted = recorded(model, model, tmp_path / "eager")
    run, output = recorded(model, compiled(model, "aot_eager"), tmp_path / "compiled")
    assert torch.allclose(output, wanted, atol=1e-6)
    assert graphs() == 1
    assert {site.expert for site in run.sites} == {-1, *range(experts)}
    assert tables(run) == tables(eager)


def test_padding_and_positions_are_those_of_the_eager_model(tmp_path: Path) -> None:
    model = Tiny(layers=1)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, :4] = 0
    runs = []
    for name, call in (("eager", model), ("compiled", compiled(model))):
        with fp.attach(model, to=tmp_path / name, example=BATCHES[0]) as probe, torch.no_grad():
            call(**BATCHES[0], attention_mask=mask)
        runs.append(tables(probe.run))
    assert probe.run.rows("layers.0/hidden")[0] == 17
    assert runs[0] == runs[1]


class Overwriting(Layer):
    """Uses the memory of the gate again, as the code of a compiled graph does."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        gate = self.gate(h)
        act = self.act(gate)
        gate.zero_()
        return x + self.down(act * self.up(h))


class Careful(Overwriting):
    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.down(self.act(self.gate(h)) * self.up(h))


def test_values_are_read_before_their_memory_is_used_again(tmp_path: Path) -> None:
    runs = []
    for kind in (Overwriting, Careful):
        torch.manual_seed(0)
        model = Tiny(layers=0)
        model.layers.append(kind(16, 40, 0.0))
        runs.append(tables(recorded(model, model, tmp_path / kind.__name__)[0]))
    assert runs[0] == runs[1]


# Switching


def test_switching_probes_on_and_off_costs_two_graphs(tmp_path: Path) -> None:
    model = sample()
    fast = compiled(model)
    with torch.no_grad():
        bare = fast(**BATCHES[-1])
        counts = [graphs()]
        for name in "abc":
            recorded(model, fast, tmp_path / name)
            counts.append(graphs())
            assert torch.equal(fast(**BATCHES[-1]), bare)
            counts.append(graphs())
    assert counts == [1, 2, 2, 2, 2, 2, 2]


def test_steps_that_are_not_watched_run_a_graph_without_taps(tmp_path: Path) -> None:
    model = sample()
    eager, _ = recorded(model, model, tmp_path / "eager", every=2)
    fast, seen = compiled(model), []
    options = {"to": tmp_path / "compiled", "example": BATCHES[0], "every": 2}
    with fp.attach(model, **options) as probe, torch.no_grad():
        for batch in [*BATCHES, *BATCHES]:
            fast(**batch)
            probe.step()
            seen.append(graphs())
    assert seen == [1, 2, 2, 2, 2, 2]
    site = "layers.0.ffn/hidden"
    assert probe.run.rows(site)[0] == 3 * 21
    assert eager.rows(site)[0] == 2 * 21


def test_a_probe_with_other_taps_gets_a_graph_of_its_own(tmp_path: Path) -> None:
    model = sample(layers=2)
    fast = compiled(model)
    recorded(model, fast, tmp_path / "all")
    run, _ = recorded(model, fast, tmp_path / "one", blocks=["layers.1.ffn"])
    assert graphs() == 2
    assert {site.block for site in run.sites} == {"layers.1.ffn"}


def test_nothing_is_left_on_the_modules(tmp_path: Path) -> None:
    model = sample()
    fast = compiled(model)
    with torch.no_grad():
        fast(**BATCHES[0])
    before = [list(module.__dict__) for module in model.modules()]
    recorded(model, fast, tmp_path / "run")
    assert [list(module.__dict__) for module in model.modules()] == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_copy_of_a_watched_model_computes_with_its_own_weights(tmp_path: Path) -> None:
    model = sample()
    with fp.attach(model, to=tmp_path / "run", example=BATCHES[0]), torch.no_grad():
        model(**BATCHES[0])
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            parameter.zero_()
        assert not other(**BATCHES[0]).any()


# Ways to compile


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager", fullgraph=True)
    return model


def each_layer(model: nn.Module) -> nn.Module:
    for layer in model.layers:  # type: ignore[union-attr]
        layer.compile(backend="eager", fullgraph=True)
    return model


def each_block(model: nn.Module) -> nn.Module:
    for layer in model.layers:  # type: ignore[union-attr]
        layer.ffn = compiled(layer.ffn)
    return model


@pytest.mark.parametrize("way", [in_place, each_layer, each_block])
def test_every_way_to_compile_keeps_the_probes(
    tmp_path: Path, way: Callable[[nn.Module], nn.Module]
) -> None:
    model = sample(layers=2)
    eager, wanted = recorded(model, model, tmp_path / "eager")
    fast = way(model)
    with torch.no_grad():
        fast(**BATCHES[0])
    run, output = recorded(model, fast, tmp_path / "compiled")
    recorded(model, fast, tmp_path / "again")
    assert torch.equal(output, wanted)
    assert graphs() == 2  # layers share theirs
    assert values(run) == values(eager)


def values(run: Run) -> list[Any]:
    found = tables(run)
    return [found[str(site)] for site in run.sites]


def test_a_wrapper_stands_for_the_module_it_wraps(tmp_path: Path) -> None:
    model = sample()
    eager, _ = recorded(model, model, tmp_path / "eager")
    fast = compiled(model)
    run, _ = recorded(fast, fast, tmp_path / "compiled")
    assert tables(run) == tables(eager)
    found = fp.scan(fast, BATCHES[0])
    with fp.attach(fast, to=tmp_path / "found", found=found) as probe, torch.no_grad():
        fast(**BATCHES[0])
    assert [b.name for b in probe.run.blocks] == ["layers.0.ffn"]
    again = fp.record(fast, BATCHES, to=tmp_path / "recorded")
    assert tables(again) == tables(eager)


# Training


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_gradients_are_those_of_the_eager_training(
    tmp_path: Path,
    checkpointing: bool | None,  # noqa: FBT001 - use_reentrant, None: off
) -> None:
    torch.manual_seed(0)
    model = Tiny(layers=1, checkpointing=checkpointing)
    found = {}
    for name, call in (("eager", model), ("compiled", compiled(model, "aot_eager"))):
        options = {"to": tmp_path / name, "example": BATCHES[0], "gradients": True}
        with fp.attach(model, **options) as probe:
            for batch in BATCHES:
                model.zero_grad()
                call(**batch).square().mean().backward()
                probe.step()
        found[name] = (tables(probe.run), gradients(model))
    assert graphs() == 1
    assert found["compiled"][0] == found["eager"][0]
    assert all(map(torch.equal, found["compiled"][1], found["eager"][1]))
    assert any("grad_resid" in str(site) for site in probe.run.sites)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_several_forwards_before_one_backward_keep_their_gradients_apart(
    tmp_path: Path,
) -> None:
    model = Tiny(layers=1)
    found = []
    for name, call in (("eager", model), ("compiled", compiled(model))):
        options = {"to": tmp_path / name, "example": BATCHES[0], "gradients": True}
        with fp.attach(model, **options) as probe:
            losses = [call(**batch).square().mean() for batch in BATCHES]
            sum(losses[1:], losses[0]).backward()
            probe.step()
        found.append(tables(probe.run))
    assert found[0] == found[1]


# What cannot be watched is refused


def test_exported_programs_are_refused(tmp_path: Path) -> None:
    model = sample()
    program = torch.export.export(model, (BATCHES[0]["input_ids"],))
    with pytest.raises(ModelError, match="eager module"):
        check_not_exported(program)
    with pytest.raises(ModelError, match="eager module"):
        fp.attach(program.module(), to=tmp_path / "run", example=BATCHES[0])


def test_a_model_is_not_exported_with_its_probes(tmp_path: Path) -> None:
    model = sample()
    arguments = (BATCHES[0]["input_ids"],)
    with fp.attach(model, to=tmp_path / "run", example=BATCHES[0]):
        model(**BATCHES[0])
        with pytest.raises(AttachError, match="after the probe's with statement"):
            torch.export.export(model, arguments, strict=False)


def test_code_without_a_source_is_refused_with_what_to_do(tmp_path: Path) -> None:
    names: dict[str, Any] = {"nn": nn, "functional": nn.functional}
    exec(HIDDEN, names)
    model = sample()
    for layer in model.layers:
        layer.ffn = names["Hidden"]()
    with (
        pytest.raises(torch._dynamo.exc.Unsupported, match=r"roles=\.\.\."),
        fp.attach(model, to=tmp_path / "run", example=BATCHES[0]),
        torch.no_grad(),
    ):
        compiled(model)(**BATCHES[0])
    run, _ = recorded(model, compiled(model), tmp_path / "hooks", roles=["gate", "hidden"])
    assert {site.role for site in run.sites} == {"gate", "hidden"}


HIDDEN = """
class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(96, 40), nn.Linear(96, 40)
        self.down = nn.Linear(40, 96)

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))
"""

"""What a probe records is what flows, and the model does not notice."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import ffn_probe as fp
from ffn_probe.errors import AttachError, UnknownName
from ffn_probe.sketches import BitHistogram, Moments
from tests.probes.models import VOCABULARY, Mixture, Tiny, tensors_of, tiny, tokens

ROLES = ("resid", "normed", "gate", "gate_act", "value", "hidden", "out")


def loss_of(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch["input_ids"].flatten())


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    )


# The statistics are those of the tensors


def test_every_role_holds_the_statistics_of_its_tensor(tmp_path: Path) -> None:
    model = tiny().eval()
    batches = [tokens(seed=seed) for seed in range(20)]
    run = fp.record(model, batches, to=tmp_path / "run", rows="all")
    truth = [tensors_of(model, batch) for batch in batches]
    assert [b.name for b in run.blocks] == ["layers.0", "layers.1"]
    assert {site.role for site in run.sites} == set(ROLES)
    for site in run.sites:
        values = torch.cat([t[site.layer, site.role].flatten(0, 1) for t in truth])
        x = values.detach().numpy()
        summary = run.summary(site)
        moments = Moments.of(x)
        assert summary.moments.count == moments.count
        assert np.isclose(summary.moments.mean, moments.mean, rtol=1e-6, atol=1e-9)
        assert np.isclose(summary.moments.m2, moments.m2, rtol=1e-6)
        assert np.isclose(summary.moments.kurtosis_pearson, moments.kurtosis_pearson, rtol=1e-5)
        assert np.array_equal(summary.histogram.counts, BitHistogram.of(x).counts)
        assert np.allclose(summary.channels.absmax, abs(x).max(0))
        assert np.allclose(summary.channels.rms, np.sqrt((x.astype(float) ** 2).mean(0)))
        assert summary.extremes.absmax == abs(x).max()


def test_top_values_carry_their_address(tmp_path: Path) -> None:
    model = tiny().eval()
    batches = [tokens(seed=seed) for seed in range(5)]
    run = fp.record(model, batches, to=tmp_path / "run")
    top = run.summary("layers.1/hidden").extremes.top[0]
    truth = [tensors_of(model, b)[1, "hidden"].detach() for b in batches]
    step = max(range(5), key=lambda i: float(truth[i].abs().max()))
    sequence, position, channel = np.unravel_index(
        int(truth[step].abs().argmax()), truth[step].shape
    )
    token = int(batches[step]["input_ids"][sequence, position])
    expected = (float(truth[step].flatten()[truth[step].abs().argmax()]), step)
    assert top.tolist() == (*expected, sequence, position, token, channel)


def test_joint_is_that_of_gate_and_value(tmp_path: Path) -> None:
    model = tiny().eval()
    batch = tokens(sequences=5, length=10)
    run = fp.record(model, [batch], to=tmp_path / "run")
    joint = run.summary("layers.0/hidden").joint
    assert joint is not None
    truth = tensors_of(model, batch)
    g, u = (truth[0, role].flatten(0, 1).detach().double() for role in ("gate", "value"))
    for neuron in (0, 7, 39):
        pair = torch.stack([g[:, neuron], u[:, neuron]])
        expected = float(torch.corrcoef(pair)[0, 1])
        assert joint.corr_gate_value[neuron] == pytest.approx(expected, abs=1e-6)
    assert joint.grid.sum() == g.numel()


def test_sampled_rows_are_bounded_and_ranges_are_exact(tmp_path: Path) -> None:
    model = tiny().eval()
    batch = tokens(sequences=20, length=50)
    run = fp.record(model, [batch], to=tmp_path / "run", rows=64)
    x = tensors_of(model, batch)[0, "gate"].flatten(0, 1).detach()
    assert run.rows("layers.0/gate")[:2] == (1000, 64)
    summary = run.summary("layers.0/gate")
    assert summary.extremes.absmax == float(x.abs().max())
    assert np.allclose(summary.channels.absmax, x.abs().amax(0))
    assert summary.moments.count == 64 * 40
    assert summary.moments.rms == pytest.approx(float(x.square().mean().sqrt()), rel=0.1)


def test_measured_noise_is_that_of_the_sampled_rows(tmp_path: Path) -> None:
    run = fp.record(tiny().eval(), [tokens(seed=k) for k in range(16)], to=tmp_path / "run")
    summary = run.summary("layers.0/hidden")
    measured = {key: summary.quant.sqnr_db(key) for key in summary.quant.entries}
    assert {"int8:tensor", "int8:channel", "e4m3fn:token"} <= set(measured)
    assert measured["int8:channel"] > measured["int8:tensor"] > 20
    assert "mxfp8:block" not in measured  # 40 channels are no multiple of 32
    assert measured["int8:tensor"] == pytest.approx(
        summary.histogram.sqnr_db(
            fp_format("int8"), summary.extremes.absmax / fp_format("int8").max
        ),
        abs=1.5,
    )


def fp_format(name: str) -> Any:
    from ffn_probe.formats import FORMATS

    return FORMATS[name]


def test_masked_tokens_are_in_no_statistic(tmp_path: Path) -> None:
    model = tiny().eval()
    whole = tokens(sequences=2, length=9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, 4:], mask[1, 7:] = 0, 0
    run = fp.record(model, [{**whole, "attention_mask": mask}], to=tmp_path / "run")
    truth = tensors_of(model, whole)
    for role in ROLES:
        x = truth[1, role][mask.bool()].detach().numpy()
        summary = run.summary(f"layers.1/{role}")
        assert summary.extremes.rows == 11
        assert summary.extremes.absmax == abs(x).max()
        assert np.array_equal(summary.histogram.counts, BitHistogram.of(x).counts)
        assert {int(p) for p in summary.extremes.top["position"]} <= set(range(7))


def test_left_padding_does_not_shift_positions(tmp_path: Path) -> None:
    ids = tokens(sequences=1, length=6)["input_ids"]
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    batch = {"input_ids": ids, "attention_mask": mask}
    run = fp.record(tiny().eval(), [batch], to=tmp_path / "run")
    assert {int(p) for p in run.summary("layers.0/gate").extremes.top["position"]} <= set(
        range(4)
    )


# Mixtures


def test_experts_are_apart_with_their_true_routing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixture().eval()
    batches = [tokens(sequences=4, length=16, seed=k) for k in range(3)]
    found = fp.discover(model, batches[0])
    model.mlp.counts.zero_()
    run = fp.record(model, batches, to=tmp_path / "run", found=found)
    (block,) = run.blocks
    assert block.experts == 4
    for expert in range(4):
        assert run.rows(f"{block.name}/hidden#{expert}")[0] == model.mlp.counts[expert]
    assert run.rows(f"{block.name}/resid")[0] == 3 * 64
    top = run.summary(f"{block.name}/gate#1").extremes.top[0]
    assert top["token"] == batches[top["step"]]["input_ids"][top["sequence"], top["position"]]


def test_padding_is_in_no_statistic_of_an_expert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixture().eval()
    mask = torch.ones(4, 16, dtype=torch.long)
    mask[:, 9:] = 0
    batch = {**tokens(sequences=4, length=16), "attention_mask": mask}
    run = fp.record(model, [batch], to=tmp_path / "run")
    sites = [site for site in run.sites if site.role == "hidden"]
    assert sum(run.rows(site)[0] for site in sites) == 2 * 4 * 9


def test_rare_experts_are_marked_and_chosen_ones_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixture().eval()
    run = fp.record(model, [tokens()], to=tmp_path / "run", experts=[1, 3])
    assert {site.expert for site in run.sites} <= {-1, 1, 3}
    assert any("too few tokens" in text for text in run.problems)
    with pytest.raises(UnknownName, match=r"no expert 9; experts are 0\.\.3"):
        fp.record(model, [tokens()], to=tmp_path / "other", experts=[9])


# The model does not notice


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("autocast", torch.float32)]
    + [
        (kind, dtype)
        for kind in ("plain", "reentrant", "saved", "mixture")
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ],
)
def test_training_is_bit_identical_under_a_probe(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        if kind == "mixture":
            return Mixture().to(dtype)
        checkpointing = {"reentrant": True, "saved": False}.get(kind)
        return Tiny(dropout=0.3, checkpointing=checkpointing).to(dtype)

    def train(model: nn.Module) -> list[Tensor]:
        torch.manual_seed(5)
        outputs = []
        for seed in range(3):
            batch = tokens(seed=seed)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
                logits = model(**batch)
            loss_of(logits, batch).backward()
            outputs.append(logits.detach())
        return [*outputs, *(p.grad for p in model.parameters()), torch.get_rng_state()]

    bare, watched = build().train(), build().train()
    before = copy.deepcopy(watched.state_dict())
    expected = train(bare)
    with fp.attach(watched, to=tmp_path / "run", example=tokens(), gradients=True):
        found = train(watched)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(before[k], v) for k, v in watched.state_dict().items())
    assert all(module.training for module in watched.modules())
    assert hooks_of(watched) == 0


def test_inference_mode_and_then_training_share_one_probe(tmp_path: Path) -> None:
    model = tiny().eval()
    batch = tokens()
    expected = model(**batch)
    with fp.attach(model, to=tmp_path / "run", example=batch) as probe:
        with torch.inference_mode():
            assert torch.equal(model(**batch), expected)
        model(**batch).sum().backward()
        with torch.inference_mode():
            model(**batch)
    assert probe.run.rows("layers.0/gate")[0] == 3 * 21


@pytest.mark.parametrize("where", ["forward", "body"])
def test_hooks_are_gone_after_an_exception(where: str, tmp_path: Path) -> None:
    model = tiny().eval()
    probe = fp.attach(model, to=tmp_path / "run", example=tokens())

    def run_and_fail() -> None:
        with probe:
            model(**tokens())
            if where == "forward":
                model(torch.full((1, 3), VOCABULARY + 5))
            raise ZeroDivisionError

    with pytest.raises((IndexError, ZeroDivisionError)):
        run_and_fail()
    assert hooks_of(model) == 0
    assert len(torch.overrides._get_current_function_mode_stack()) == 0
    run = fp.Run.open(tmp_path / "run")
    assert run.closed
    assert run.rows("layers.0/gate")[0] >= 21


def test_attach_is_all_or_nothing(tmp_path: Path) -> None:
    model = tiny().eval()
    found = fp.discover(model, tokens())
    del model.layers[1].gate
    probe = fp.attach(model, to=tmp_path / "a" / "run", found=found)
    with pytest.raises(AttachError, match=r"reads module 'layers\.1\.gate'"), probe:
        pass
    assert hooks_of(model) == 0
    assert not (tmp_path / "a" / "run").exists()


def test_two_probes_on_one_model_see_the_same(tmp_path: Path) -> None:
    model = tiny().eval()
    found = fp.discover(model, tokens())
    with (
        fp.attach(model, to=tmp_path / "a", found=found) as first,
        fp.attach(model, to=tmp_path / "b", found=found) as second,
    ):
        model(**tokens())
    assert hooks_of(model) == 0
    for site in first.run.sites:
        one, other = first.run.summary(site), second.run.summary(site)
        assert one.moments == other.moments
    with fp.attach(model, to=tmp_path / "c", found=found):
        model(**tokens())


# Gradients and recomputation


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_gradients_are_those_of_the_tensors(
    checkpointing: bool | None,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    batch = tokens()
    plain = tiny()
    with_grad = tensors_of(plain, batch)
    for tensor in with_grad.values():
        tensor.retain_grad()
    last = with_grad[1, "resid"] + with_grad[1, "out"]
    loss_of(plain.head(last), batch).backward()
    model = tiny(checkpointing=checkpointing)
    with fp.attach(
        model, to=tmp_path / "run", example=batch, gradients=True, rows="all"
    ) as probe:
        loss_of(model(**batch), batch).backward()
    run = probe.run
    assert run.rows("layers.0/gate")[0] == 21  # not twice
    for role in ("gate", "value", "hidden", "gate_act"):
        expected = with_grad[0, role].grad
        summary = run.summary(f"layers.0/grad_{role}")
        assert summary.extremes.rows == 21
        assert summary.extremes.absmax == pytest.approx(float(expected.abs().max()), rel=1e-5)
        rms = float(expected.double().square().mean().sqrt())
        assert summary.moments.rms == pytest.approx(rms, rel=1e-5)


# Steps, folds, schedule, choice


def test_steps_windows_folds_and_metrics(tmp_path: Path) -> None:
    model = tiny().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), window=4) as probe:
        for k in range(18):
            model(**tokens(seed=k % 16))
            probe.step(loss=torch.tensor(float(k)), rate=0.5)
    run = probe.run
    assert run.closed
    assert (run.manifest.steps, run.manifest.windows) == (18, 5)
    metrics = run.table("metrics")
    assert metrics.query("name == 'loss'")["value"].tolist() == [float(k) for k in range(18)]
    folds = run.manifest.folds
    assert [f["batches"] for f in folds] == [2, 2] + [1] * 14
    assert len({f["hash"] for f in folds}) == 16
    seen = run.table("moments").query("block == 'layers.0' and role == 'gate'")
    assert seen.groupby("fold")["seen_rows"].sum().tolist() == [42, 42] + [21] * 14


def test_the_hash_of_a_fold_depends_on_its_inputs_alone(tmp_path: Path) -> None:
    batches = [tokens(seed=k) for k in range(4)]
    runs = [
        fp.record(tiny(layers=n + 1).eval(), batches, to=tmp_path / str(n)) for n in range(2)
    ]
    other = fp.record(tiny().eval(), batches[::-1], to=tmp_path / "other")
    hashes = [[f["hash"] for f in run.manifest.folds] for run in (*runs, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0][:4] == hashes[2][3::-1]


def test_every_second_step_is_watched(tmp_path: Path) -> None:
    model = tiny().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), every=2) as probe:
        for k in range(6):
            model(**tokens(seed=k))
            probe.step()
    assert probe.run.rows("layers.0/gate")[0] == 3 * 21
    steps = set(probe.run.summary("layers.0/gate").extremes.top["step"].tolist())
    assert steps <= {0, 2, 4}


def test_blocks_and_roles_are_chosen(tmp_path: Path) -> None:
    model = tiny(layers=3).eval()
    choices: dict[str, Any] = {"glob": "layers.[02]", "first": [0, 2], "last": ["0", -1]}
    for name, blocks in choices.items():
        run = fp.record(
            model, [tokens()], to=tmp_path / name, blocks=blocks, roles=["out", "gate"]
        )
        assert {s.block for s in run.sites} == {"layers.0", "layers.2"}
        assert {s.role for s in run.sites} == {"gate", "out"}
    with pytest.raises(UnknownName, match=r"no block 'layer\.1'.*Did you mean 'layers\.1'"):
        fp.record(model, [tokens()], to=tmp_path / "x", blocks="layer.1")
    with pytest.raises(UnknownName, match=r"no role 'gates'.*Did you mean 'gate'"):
        fp.record(model, [tokens()], to=tmp_path / "x", roles=["gates"])
    assert not (tmp_path / "x").exists()


def test_state_does_not_grow_with_steps(tmp_path: Path) -> None:
    model = tiny().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), window=2) as probe:
        sizes = []
        for k in range(8):
            model(**tokens(seed=k))
            probe.step()
            sizes.append(probe.observer.bytes)
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


# Never silent


class Fickle(nn.Module):
    """Runs another path once `other` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny()
        self.other = False

    def forward(self, input_ids: Tensor) -> Tensor:
        layer = self.inner.layers[0]
        x = self.inner.embedding(input_ids)
        h = layer.norm(x)
        act = torch.sigmoid(layer.gate(h)) if self.other else layer.act(layer.gate(h))
        return x + layer.down(act * layer.up(h))


def test_a_tap_that_never_fires_is_an_error_and_the_run_is_kept(tmp_path: Path) -> None:
    model = Fickle().eval()
    probe = fp.attach(model, to=tmp_path / "run", example=tokens())
    model.other = True
    with pytest.raises(AttachError, match=r"1 taps never fired .*/gate_act"), probe:
        model(**tokens())
    assert probe.run.closed
    assert any("'gate_act' missed 1 of 1 calls" in text for text in probe.run.problems)
    assert hooks_of(model) == 0


@pytest.mark.parametrize("options", [{"allow_silent": True}, {"roles": ["hidden"]}])
def test_silence_that_was_asked_for_is_a_note(options: dict[str, Any], tmp_path: Path) -> None:
    model = Fickle().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), **options) as probe:
        model.other = True
        model(**tokens())
    assert any("missed" in text for text in probe.run.problems)


def test_a_tap_that_fires_now_and_then_is_noted(tmp_path: Path) -> None:
    model = Fickle().eval()
    with fp.attach(model, to=tmp_path / "run", example=tokens()) as probe:
        for model.other in (False, True, False):
            model(**tokens())
    assert any("missed 1 of 3 calls in window 0" in text for text in probe.run.problems)


def test_a_probe_that_saw_nothing_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    model = tiny().eval()
    probe = fp.attach(model, to=tmp_path / "run", example=tokens())
    with pytest.raises(AttachError, match="nothing was recorded"), probe:
        copy.deepcopy(model)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("way")
def test_no_statistic_waits_for_a_device(tmp_path: Path) -> None:
    """No hook asks for a value or for a size that depends on values."""
    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "item")

    class Watch(TorchDispatchMode):
        seen: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if any(word in str(func) for word in waits):
                self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    model = tiny().train()
    with fp.attach(model, to=tmp_path / "run", example=tokens(), gradients=True, rows=8):
        with Watch() as watch:
            for k in range(3):
                model(**tokens(seed=k)).sum().backward()
        assert watch.seen == []
        with Watch() as watch:
            torch.ones(1).item()
        assert watch.seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"rows": "some"}, "rows is 'some'"),
        ({"every": 0}, "every is 0"),
        ({"bits": 9}, r"bits is 9; expected 1\.\.7"),
        ({"window": -1}, "window is -1"),
        ({"example": None}, "needs example= .* or found="),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AttachError, match=message):
        fp.attach(tiny(), **({"to": tmp_path / "run", "example": tokens()} | options))
    assert not (tmp_path / "run").exists()

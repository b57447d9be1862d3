import copy
from collections import namedtuple
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from ffn_probe.anatomy import ROLES, Block, Norm, Tap
from ffn_probe.discover.discover import discover
from ffn_probe.errors import AttachError
from ffn_probe.swaps.interpose import interpose, interposed, readers, writers
from tests.discover.plain_models import ConvFfn, Parallel, Residual

D, H = 32, 48
Put = Callable[[Tensor], Tensor | None]


class Glu(nn.Module):
    """x + down(silu(gate(norm(x))) * up(norm(x))), the functions called inside forward."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm or nn.LayerNorm(D)
        self.gate, self.up, self.down = nn.Linear(D, H), nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Fused(nn.Module):
    """One matrix of both branches, taken apart by `split` and activated by a module."""

    def __init__(self, split: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.norm, self.act, self.split = nn.LayerNorm(D), nn.SiLU(), split
        self.both, self.down = nn.Linear(D, 2 * H), nn.Linear(H, D)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.split(self.both(self.norm(x)))
        return x + self.down(self.act(gate) * value)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    gate, value = x.chunk(2, dim=-1)
    return gate, value


def interleaved(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., ::2], x[..., 1::2]


def ready(model: nn.Module) -> tuple[nn.Module, Tensor, Block]:
    torch.manual_seed(0)
    x = torch.randn(2, 10, D)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (block,) = discover(model.eval(), x)
    return model, x, block


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def putting(change: Put) -> Callable[[Block, Tap, Tensor], Tensor | None]:
    return lambda block, tap, value: change(value)  # noqa: ARG005


def roles_of(model: nn.Module, x: Any, block: Block) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    keep = lambda b, tap, value: found.update({tap.role: value.detach().clone()})  # noqa: E731, ARG005
    with interposed(model, readers(block), keep), torch.no_grad():
        model(**x) if isinstance(x, dict) else model(x)
    return found


def by_hand(model: Glu, x: Tensor) -> dict[str, Tensor]:
    """Return every role from the formulas."""
    with torch.no_grad():
        y = F.layer_norm(x, (D,), model.norm.weight, model.norm.bias)
        gate, value = model.gate(y), model.up(y)
        hidden = F.silu(gate) * value
        roles = [x, y, gate, F.silu(gate), value, hidden, model.down(hidden)]
    return dict(zip(ROLES, roles, strict=True))


# ---- looking ----------------------------------------------------------------------------


def test_every_role_is_seen_as_the_formulas_make_it() -> None:
    model, x, block = ready(Glu())
    seen, expected = roles_of(model, x, block), by_hand(model, x)
    assert list(seen) == list(ROLES)
    for role in ROLES:
        assert torch.allclose(seen[role], expected[role], atol=1e-6), role


def test_looking_changes_no_bit_and_leaves_no_trace() -> None:
    model, x, block = ready(Glu())
    before, attributes = run(model, x), [sorted(vars(m)) for m in model.modules()]
    with interposed(model, readers(block), putting(lambda _: None)):
        assert torch.equal(before, run(model, x))
    assert [sorted(vars(m)) for m in model.modules()] == attributes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("role", ["gate", "hidden"])
def test_one_role_may_be_chosen(role: str) -> None:
    _, _, block = ready(Glu())
    assert [tap.role for _, tap in readers(block, [role])] == [role]
    assert len(readers(block)) == len(ROLES)


@pytest.mark.parametrize("split", [halves, interleaved])
def test_a_part_of_a_fused_matrix_is_seen_alone(
    split: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> None:
    model, x, block = ready(Fused(split))
    with torch.no_grad():
        gate, value = split(model.both(model.norm(x)))
    seen = roles_of(model, x, block)
    assert torch.equal(seen["gate"], gate)
    assert torch.equal(seen["value"], value)


def test_channels_come_last_where_the_model_has_them_elsewhere() -> None:
    model, x, block = ready(Residual(ConvFfn()))
    seen = roles_of(model, x, block)
    assert seen["hidden"].shape == (2, 10, H)
    assert seen["out"].shape == (2, 10, D)


def test_the_fused_layer_of_torch_is_seen_too() -> None:
    model, x, block = ready(
        nn.TransformerEncoderLayer(D, 4, H, batch_first=True, norm_first=True)
    )
    assert roles_of(model, x, block)["hidden"].shape == (2, 10, H)


# ---- putting in -------------------------------------------------------------------------


def after(role: str, put: Tensor, model: Glu, x: Tensor) -> Tensor:
    """Return the output of the block when a role has other values, from the formulas."""
    given = by_hand(model, x) | {role: put}
    if role == "resid":
        given |= by_hand(model, put)
    with torch.no_grad():
        if role == "normed":
            given |= {"gate": model.gate(put), "value": model.up(put)}
        if role in {"normed", "gate"}:
            given["gate_act"] = F.silu(given["gate"])
        if role in {"normed", "gate", "gate_act", "value"}:
            given["hidden"] = given["gate_act"] * given["value"]
        out = put if role == "out" else model.down(given["hidden"])
    return x + out


@pytest.mark.parametrize("role", [r for r in ROLES if r != "resid"])
def test_what_is_put_in_reaches_what_follows_and_nothing_before(role: str) -> None:
    model, x, block = ready(Glu())
    put = torch.randn_like(by_hand(model, x)[role])
    with interposed(model, writers(block, role), putting(lambda _: put)):
        out = run(model, x)
        seen = roles_of(model, x, block)
    assert torch.allclose(out, after(role, put, model, x), atol=1e-6)
    assert torch.equal(seen[role], put)
    for earlier in ROLES[: ROLES.index(role)]:
        if {earlier, role} != {"gate_act", "value"}:
            assert torch.allclose(seen[earlier], by_hand(model, x)[earlier], atol=1e-6)


def test_a_product_put_in_is_the_hidden_tensor() -> None:
    model, x, block = ready(Glu())
    with interposed(model, writers(block, "product"), putting(torch.zeros_like)):
        assert torch.allclose(run(model, x), x + model.down.bias, atol=1e-6)


@pytest.mark.parametrize("split", [halves, interleaved])
def test_putting_in_one_part_leaves_the_other(
    split: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> None:
    model, x, block = ready(Fused(split))
    with torch.no_grad():
        gate, _ = split(model.both(model.norm(x)))
        expected = x + model.down(F.silu(gate) * 2.0)
    with interposed(model, writers(block, "value"), putting(lambda v: torch.full_like(v, 2.0))):
        assert torch.allclose(run(model, x), expected, atol=1e-5)


class InPlace(nn.Module):
    """The gate is made by functions that change it in place and return nothing new."""

    def __init__(self, change: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self.norm, self.change = nn.LayerNorm(D), change
        self.gate, self.up = nn.Linear(D, H, bias=False), nn.Linear(D, H)
        self.down, self.bias = nn.Linear(H, D), nn.Parameter(torch.zeros(H))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        gate = self.gate(y)
        self.change(gate, self.bias)
        return x + self.down(F.silu(gate) * self.up(y))


def add(gate: Tensor, bias: Tensor) -> None:
    gate.add_(bias)


def add_by_operator(gate: Tensor, bias: Tensor) -> None:
    gate += bias


@pytest.mark.parametrize("change", [add, add_by_operator])
def test_what_a_function_made_in_place_is_replaced_where_it_stands(
    change: Callable[[Tensor, Tensor], None],
) -> None:
    model, x, block = ready(InPlace(change))
    assert roles_of(model, x, block)["gate"].any()
    with interposed(model, writers(block, "gate"), putting(torch.zeros_like)):
        assert torch.allclose(run(model, x), x + model.down.bias, atol=1e-6)


def test_a_normed_tensor_put_in_reaches_every_reader_of_the_norm() -> None:
    model, x, block = ready(Residual(Parallel()))
    seen: list[Tensor] = []
    model.ffn.attention.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])  # noqa: ARG005
    )
    with interposed(model, writers(block, "normed"), putting(torch.zeros_like)):
        run(model, x)
    assert not bool(seen[0].any())


def test_a_normed_tensor_without_a_norm_is_put_in_at_gate_and_up() -> None:
    model, x, block = ready(Glu(nn.Identity()))
    assert block.norm.kind == "none"
    with interposed(model, writers(block, "normed"), putting(torch.zeros_like)):
        out = run(model, x)
    with torch.no_grad():
        hidden = F.silu(model.gate.bias) * model.up.bias
        assert torch.allclose(out, x + model.down(hidden), atol=1e-6)


def test_a_tensor_put_in_takes_the_dtype_of_the_one_it_replaces() -> None:
    model, x, block = ready(Glu())
    with interposed(model, writers(block, "hidden"), putting(Tensor.double)):
        assert run(model, x).dtype == torch.float32


def test_gradients_flow_through_what_is_put_in() -> None:
    model, x, block = ready(Glu())
    scale = torch.ones((), requires_grad=True)
    with interposed(model, writers(block, "hidden"), putting(lambda v: v * scale)):
        model(x).sum().backward()
    assert scale.grad is not None
    assert model.gate.weight.grad is not None


def test_hooks_see_what_was_put_in() -> None:
    model, x, block = ready(Glu())
    seen: list[Tensor] = []
    handle = model.gate.register_forward_hook(
        lambda module, args, output: seen.append(output)  # noqa: ARG005
    )
    with interposed(model, writers(block, "gate"), putting(torch.zeros_like)):
        run(model, x)
    handle.remove()
    assert not bool(seen[0].any())


# ---- several ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", [r for r in ROLES if r != "resid"])
def test_the_later_of_two_gets_what_the_earlier_put_in(role: str) -> None:
    model, x, block = ready(Glu())
    seen: list[Tensor] = []
    look = putting(lambda v: seen.append(v.clone()))  # type: ignore[func-returns-value]
    with (
        interposed(model, writers(block, role), putting(torch.ones_like)),
        interposed(model, readers(block, [role]), look),
    ):
        run(model, x)
    assert bool((seen[0] == 1).all())


def test_two_on_one_module_are_left_in_any_order() -> None:
    model, x, block = ready(Glu())
    before = run(model, x)
    first, second = ExitStack(), ExitStack()
    interpose(model, writers(block, "hidden"), putting(torch.zeros_like), first)
    interpose(model, writers(block, "out"), putting(lambda v: v + 1), second)
    assert torch.allclose(run(model, x), x + model.down.bias + 1, atol=1e-6)
    first.close()
    assert torch.allclose(run(model, x), before + 1, atol=1e-6)
    second.close()
    assert torch.equal(run(model, x), before)
    assert not any("forward" in vars(m) or m._forward_pre_hooks for m in model.modules())


# ---- undo -------------------------------------------------------------------------------


class Wrong(Exception):
    """A test's own."""


def fail(block: Block, tap: Tap, value: Tensor) -> None:  # noqa: ARG001
    raise Wrong


def test_an_exception_in_a_touch_undoes_it() -> None:
    model, x, block = ready(Glu())
    before = run(model, x)
    with pytest.raises(Wrong), interposed(model, readers(block), fail):
        run(model, x)
    assert torch.equal(before, run(model, x))
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_forward_of_the_instance_is_kept_and_called() -> None:
    model, x, block = ready(Glu())
    own = lambda y: torch.zeros(*y.shape[:-1], D)  # noqa: E731
    model.down.forward = own
    with interposed(model, writers(block, "out"), putting(lambda v: v + 1)):
        assert torch.allclose(run(model, x), x + 1)
    assert model.down.forward is own


def test_a_tap_of_another_model_changes_nothing() -> None:
    model, x, block = ready(Glu())
    before = run(model, x)
    taps = (*writers(block, "hidden"), (block, Tap("out", "output", "nowhere.down")))
    stack = ExitStack()
    with pytest.raises(AttachError, match=r"reads module 'nowhere\.down'"):
        interpose(model, taps, putting(torch.zeros_like), stack)
    stack.close()
    assert torch.equal(before, run(model, x))


def test_a_copy_made_meanwhile_is_a_model_of_its_own() -> None:
    model, x, block = ready(Glu())
    before = run(model, x)
    with interposed(model, writers(block, "out"), putting(torch.zeros_like)):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.norm.weight.zero_()
        assert torch.equal(run(model, x), x)
    assert torch.equal(run(model, x), before)


# ---- what modules take and give ---------------------------------------------------------

Pair = namedtuple("Pair", ["first", "second"])
HAND = Block("b", 0, "mlp", "relu", Norm("none"), {}, D, H)
GIVEN: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tuple": (lambda x: (x, x + 1), lambda out: out[1]),
    "list": (lambda x: [x, x + 1], lambda out: out[1]),
    "named tuple": (lambda x: Pair(x, x + 1), lambda out: out.second),
    "mapping": (lambda x: {"first": x, "second": x + 1}, lambda out: out["second"]),
    "model output": (
        lambda x: transformers.modeling_outputs.BaseModelOutputWithPast(
            last_hidden_state=x, past_key_values=x + 1
        ),
        lambda out: out.past_key_values,
    ),
}


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_an_output_among_several_is_replaced_in_its_own_kind(name: str) -> None:
    make, pick = GIVEN[name]

    class Gives(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return make(x)

    model, x = Gives(), torch.ones(2, 3)
    tap = Tap("out", "output", "", index=1)
    with interposed(model, [(HAND, tap)], putting(torch.zeros_like)):
        out = model(x)
    assert type(out) is type(make(x))
    assert torch.equal(pick(out), torch.zeros(2, 3))
    assert torch.equal(out[0] if not isinstance(out, dict) else next(iter(out.values())), x)


def test_an_argument_given_by_keyword_is_replaced() -> None:
    class Takes(nn.Module):
        def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
            return x + y

    model, tap = Takes(), Tap("resid", "input", "", keyword="y")
    with interposed(model, [(HAND, tap)], putting(torch.zeros_like)):
        assert torch.equal(model(torch.ones(2), y=torch.ones(2)), torch.ones(2))


def test_an_argument_that_is_not_there_is_left_alone() -> None:
    model, tap = nn.Identity(), Tap("resid", "input", "", index=3)
    with interposed(model, [(HAND, tap)], fail):
        assert bool(model(torch.ones(2)).all())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("LlamaForCausalLM", {}),
        ("MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("GptOssForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ],
)
@pytest.mark.parametrize("role", ["gate", "hidden", "out", "product"])
def test_a_role_of_a_transformers_model_can_be_silenced(
    name: str, more: dict[str, int], role: str
) -> None:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    sizes = {"hidden_size": D, "intermediate_size": H, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8}
    model = cls(cls.config_class(**sizes, **heads, **ends, **more)).eval()
    ids = {"input_ids": torch.arange(5, 21).view(2, 8)}
    block = discover(model, ids)[0]
    with interposed(model, writers(block, role), putting(torch.zeros_like)):
        silent = roles_of(model, ids, block)["out"]
    assert bool(roles_of(model, ids, block)["out"].any())
    assert not bool(silent.any())

"""The table of architectures against the blocks that are found in them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet

from ffn_probe.anatomy import Block
from ffn_probe.discover import scan
from tests.discover.architectures import ARCHITECTURES, Architecture, Ffn
from tests.discover.rare_architectures import RARE

TABLE = ARCHITECTURES + RARE

IN_HALF = ("llama", "gemma2", "olmo2", "cohere", "gpt_oss", "mixtral", "nemotron", "bert", "t5")
DISPATCHED = ("deepseek_v4", "gpt_oss", "mixtral", "nemotron_h", "olmoe")
IN_TRAINING = ("llama", "gpt2", "bert", "mixtral", "t5_v1_1", "vit", "squeezebert")
DISTURBED = (
    "llama", "gemma", "gemma3n", "olmo", "cohere", "glm4", "bitnet", "nemotron", "gpt2", "bert",
    "mixtral", "dbrx", "t5_v1_1", "modernbert", "squeezebert", "imagegpt", "phimoe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    place: str
    field: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.place} {self.field}: expected {self.expected!r}, found {self.found!r}"


def named(names: tuple[str, ...]) -> list[Architecture]:
    return [a for a in TABLE if a.name in names]


def cases(architectures: Iterable[Architecture]) -> list[ParameterSet]:
    """Return a test case each."""
    return [pytest.param(a, id=a.name) for a in architectures]


def numbered(path: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])|(?<=_)\d+(?=\.)", "*", path)


def place(block: Block) -> str:
    return numbered(block.projections["down"].path)


def key(group: Ffn) -> str:
    return numbered(group.down)


def facts(block: Block) -> dict[str, Any]:
    """Return what is compared, in the words of the table."""
    projections = {
        role: numbered(p.path) + ("" if p.part == "all" else f":{p.part}")
        for role, p in block.projections.items()
    }
    leaf = None if block.norm.module is None else block.norm.module.rpartition(".")[2]
    leaf = "*" if leaf is not None and leaf.isdigit() else leaf
    return {
        "kind": block.kind,
        "activation": block.activation,
        "experts": block.experts,
        "layout": block.layout,
        "d_model": block.d_model,
        "d_ff": block.d_ff,
        **{role: projections.get(role) for role in ("gate", "up", "down")},
        "norm": block.norm.kind,
        "norm module": leaf,
        "norm gain": block.norm.gain,
        "norm bias": block.norm.bias,
        "norm eps": block.norm.eps,
        "flags": block.flags,
    }


def expected_facts(group: Ffn) -> dict[str, Any]:
    return {
        "kind": group.kind,
        "activation": group.activation,
        "experts": group.experts,
        "layout": group.layout,
        "d_model": group.d_model,
        "d_ff": group.d_ff,
        "gate": None if group.gate is None else numbered(group.gate),
        "up": numbered(group.up),
        "down": numbered(group.down),
        "norm": group.norm.kind,
        "norm module": group.norm.leaf,
        "norm gain": group.norm.gain,
        "norm bias": group.norm.bias,
        "norm eps": group.norm.eps,
        "flags": (),
    }


def differences(blocks: tuple[Block, ...], expected: tuple[Ffn, ...]) -> Iterator[Difference]:
    groups = {key(group): group for group in expected}
    for where in sorted({place(b) for b in blocks} - set(groups)):
        yield Difference(where, "block", "none", "one")
    for where, group in groups.items():
        members = [b for b in blocks if place(b) == where]
        total = sum(g.count for g in expected if key(g) == where)
        if len(members) != total and not (group.optional and not members):
            yield Difference(where, "count", total, len(members))
        for block in members:
            found = facts(block)
            for field, value in expected_facts(_group_of(block, expected)).items():
                if not same(value, found[field]):
                    yield Difference(block.name, field, value, found[field])


def _group_of(block: Block, expected: tuple[Ffn, ...]) -> Ffn:
    """Return the group whose path, numbers and all, fits best."""
    path = block.projections["down"].path
    fitting = [g for g in expected if key(g) == place(block)]
    return next((g for g in fitting if _fits(g.down, path)), fitting[0])


def _fits(pattern: str, path: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), path) is not None


def same(expected: object, found: object) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return found == pytest.approx(expected, rel=1e-3)
    return expected == found


def assert_like(blocks: tuple[Block, ...], expected: tuple[Ffn, ...]) -> None:
    problems = list(differences(blocks, expected))
    assert not problems, "\n" + "\n".join(map(str, problems))


@pytest.mark.parametrize("architecture", cases(TABLE))
def test_every_ffn_of_the_code_is_found_and_nothing_else(architecture: Architecture) -> None:
    model, example = architecture.build()
    assert_like(scan(model, example).blocks, architecture.expected)


@pytest.mark.parametrize("architecture", [a for a in TABLE if a.unreadable])
def test_an_ffn_that_cannot_be_read_is_told_with_the_reason(architecture: Architecture) -> None:
    skipped = scan(*architecture.build()).skipped
    assert [s for s in skipped if architecture.unreadable in s.reason]


@pytest.mark.parametrize("architecture", cases(named(DISTURBED)))
def test_weights_away_from_one_and_zero_change_nothing(architecture: Architecture) -> None:
    model, example = architecture.build(noise=0.3)
    assert_like(scan(model, example).blocks, architecture.expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", cases(named(IN_HALF)))
def test_half_precision_changes_nothing(architecture: Architecture, dtype: torch.dtype) -> None:
    model, example = architecture.build(dtype=dtype, noise=0.2)
    assert_like(scan(model, example).blocks, architecture.expected)


@pytest.mark.parametrize("dispatch", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("architecture", named(DISPATCHED), ids=lambda a: a.name)
def test_the_dispatch_of_experts_changes_nothing(
    architecture: Architecture, dispatch: str
) -> None:
    model, example = architecture.build()
    model.set_experts_implementation(dispatch)
    assert_like(scan(model, example).blocks, architecture.expected)


@pytest.mark.parametrize("architecture", named(IN_TRAINING), ids=lambda a: a.name)
def test_training_mode_changes_nothing_and_stays_as_it_was(architecture: Architecture) -> None:
    model, example = architecture.build()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    assert_like(scan(model, example).blocks, architecture.expected)
    assert all(module.training for module in model.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_the_table_has_every_kind() -> None:
    groups = [group for a in TABLE for group in a.expected]
    assert len(TABLE) >= 150
    assert {g.kind for g in groups} == {"glu", "mlp"}
    assert {g.layout for g in groups} >= {
        "separate", "concatenated", "packed separate", "packed concatenated",
        "packed interleaved",
    }  # fmt: skip
    assert {g.norm.kind for g in groups} >= {"none", "layernorm", "rmsnorm"}


def test_the_comparison_sees_a_wrong_field() -> None:
    llama = named(("llama",))[0]
    blocks = scan(*llama.build()).blocks
    wrong = named(("gemma2",))[0].expected
    fields = {d.field for d in differences(blocks, wrong)}
    assert fields >= {"activation", "norm module", "norm gain"}

"""Sites of unlike models meet by depth, block, role and expert."""

import json
from pathlib import Path

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.errors import CompareError, FfnProbeError, UnknownName
from ffn_probe.runs import Run
from tests.compare.made_runs import draws, make_run

MLP = ("normed", "gate", "hidden", "out")
GLU = ("normed", "gate", "gate_act", "value", "hidden", "out")


def model(path: Path, layers: range, roles=MLP, name: str = "layers.{}.mlp", **kwargs) -> Run:
    sites = [Site(layer, name.format(layer), role) for layer in layers for role in roles]
    return make_run(path, {s: draws(i, folds=8, rows=8) for i, s in enumerate(sites)}, **kwargs)


def texts(drift) -> str:
    return " | ".join(note.text for note in drift.validity)


def layers_of(drift) -> list[tuple[str, str]]:
    return [(s.block_a, s.block_b) for s in drift.sites if s.role == "hidden"]


def test_layers_meet_by_ordinal_whatever_their_names(tmp_path: Path) -> None:
    a = model(tmp_path / "a", range(3))
    b = model(tmp_path / "b", range(3), name="h.{}.ffn")
    assert layers_of(compare(a, b)) == [(f"layers.{i}.mlp", f"h.{i}.ffn") for i in range(3)]


def test_unequal_depths_meet_at_equal_relative_depth_and_say_so(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", range(3)), model(tmp_path / "b", range(5))
    drift = compare(a, b)
    pairs = [(0, 0), (1, 2), (2, 4)]
    assert layers_of(drift) == [(f"layers.{i}.mlp", f"layers.{j}.mlp") for i, j in pairs]
    assert {site.layer for site in drift.only_b} == {1, 3}
    assert drift.only_a == ()
    assert "3 and 5 layers" in texts(drift)


def test_deeper_reference_leaves_its_own_layers_over(tmp_path: Path) -> None:
    drift = compare(model(tmp_path / "a", range(5)), model(tmp_path / "b", range(2)))
    assert layers_of(drift) == [
        ("layers.0.mlp", "layers.0.mlp"),
        ("layers.4.mlp", "layers.1.mlp"),
    ]
    assert {site.layer for site in drift.only_a} == {1, 2, 3}


def test_layers_left_out_of_a_recording_do_not_shift_the_others(tmp_path: Path) -> None:
    config = {"config": {"num_hidden_layers": 4}}
    a = model(tmp_path / "a", range(4), model=config)
    b = model(tmp_path / "b", range(1, 3), model=config)
    drift = compare(a, b)
    assert layers_of(drift) == [(f"layers.{i}.mlp", f"layers.{i}.mlp") for i in (1, 2)]
    assert {site.layer for site in drift.only_a} == {0, 3}


def test_layers_counted_from_one_meet_in_order(tmp_path: Path) -> None:
    drift = compare(model(tmp_path / "a", range(2)), model(tmp_path / "b", range(1, 3)))
    assert layers_of(drift)[0] == ("layers.0.mlp", "layers.1.mlp")
    assert "numbered differently" in texts(drift)


def test_glu_meets_mlp_at_the_pre_activation(tmp_path: Path) -> None:
    drift = compare(model(tmp_path / "a", range(2), GLU), model(tmp_path / "b", range(2), MLP))
    assert [site.role for site in drift.sites if site.layer == 0] == list(MLP)
    assert {site.role for site in drift.only_a} == {"gate_act", "value"}
    assert "pre-activation" in texts(drift)


def moe(path: Path, experts: range) -> Run:
    sites = {Site(0, "layers.0.moe", "normed"): draws(99, folds=8)}
    sites |= {Site(0, "layers.0.moe", "hidden", e): draws(e, folds=8) for e in experts}
    return make_run(path, sites)


def test_experts_meet_by_number_and_extra_ones_are_listed(tmp_path: Path) -> None:
    drift = compare(moe(tmp_path / "a", range(3)), moe(tmp_path / "b", range(4)))
    assert [(s.role, s.expert) for s in drift.sites] == [
        ("normed", -1),
        ("hidden", 0),
        ("hidden", 1),
        ("hidden", 2),
    ]
    assert [site.name for site in drift.only_b] == ["layers.0.moe/hidden#3"]


def test_a_mixture_meets_a_dense_block_with_its_experts_pooled(tmp_path: Path) -> None:
    mixture = moe(tmp_path / "moe", range(3))
    pooled = [x for e in range(3) for x in draws(e, folds=8)]
    folds = [pooled[k::8] for k in range(8)]
    dense = make_run(
        tmp_path / "dense",
        {
            Site(0, "layers.0.mlp", "normed"): draws(99, folds=8),
            Site(0, "layers.0.mlp", "hidden"): [np.concatenate(fold) for fold in folds],
        },
    )
    for drift in (compare(mixture, dense), compare(dense, mixture)):
        hidden = next(site for site in drift.sites if site.role == "hidden")
        assert hidden.expert == -1
        kept = [c.value for c in hidden.changes if c.aspect != "representability"]
        assert kept == pytest.approx([0.0] * len(kept), abs=1e-9)
        one, other = drift.histograms(hidden)
        assert one.equals(other)
        assert len(drift.only_a) + len(drift.only_b) == 3
        assert "pooled" in texts(drift)


def test_several_blocks_of_a_layer_meet_by_name_then_kind(tmp_path: Path) -> None:
    def two(path: Path, names: tuple[str, str]) -> Run:
        roles = {names[0]: MLP, names[1]: GLU}
        return make_run(
            path,
            {
                Site(0, name, role): draws(i, folds=8, rows=8)
                for name, listed in roles.items()
                for i, role in enumerate(listed)
            },
        )

    a = two(tmp_path / "a", ("l.0.dense", "l.0.gated"))
    b = two(tmp_path / "b", ("l.0.z", "l.0.a"))
    assert set(layers_of(compare(a, b))) == {("l.0.dense", "l.0.z"), ("l.0.gated", "l.0.a")}


@pytest.mark.parametrize("as_file", [False, True])
def test_a_mapping_overrides_the_alignment(tmp_path: Path, *, as_file: bool) -> None:
    a, b = model(tmp_path / "a", range(3)), model(tmp_path / "b", range(3))
    mapping = {"layers.0.mlp": "layers.2.mlp", "layers.2.mlp": "layers.0.mlp"}
    given = mapping
    if as_file:
        given = tmp_path / "mapping.json"
        given.write_text(json.dumps(mapping))
    assert dict(layers_of(compare(a, b, mapping=given))) == mapping | {
        "layers.1.mlp": "layers.1.mlp"
    }


def test_a_mapping_of_an_unknown_block_is_an_error(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", range(1)), model(tmp_path / "b", range(1))
    with pytest.raises(UnknownName, match=r"layers\.0\.mpl"):
        compare(a, b, mapping={"layers.0.mpl": "layers.0.mlp"})
    with pytest.raises(UnknownName, match="no block 'x'"):
        compare(a, b, mapping={"layers.0.mlp": "x"})


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "{", None])
def test_an_unreadable_mapping_is_an_error(tmp_path: Path, text: str | None) -> None:
    a = model(tmp_path / "a", range(1))
    path = tmp_path / "mapping.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CompareError, match="mapping"):
        compare(a, a, mapping=path)


def test_runs_with_no_role_in_common_are_refused(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", range(1), ("gate",)), model(tmp_path / "b", range(1), ("out",))
    with pytest.raises(CompareError, match="no site in common"):
        compare(a, b)


def test_an_empty_run_and_one_of_another_kind_are_refused(tmp_path: Path) -> None:
    a = model(tmp_path / "a", range(1))
    with pytest.raises(CompareError, match="nothing was recorded"):
        compare(a, make_run(tmp_path / "empty", {}))
    with pytest.raises(CompareError, match="bench run"):
        compare(a, model(tmp_path / "bench", range(1), kind="bench"))
    with pytest.raises(FfnProbeError, match="does not exist"):
        compare(a, tmp_path / "nowhere")

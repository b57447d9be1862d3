"""Shares add up, say when they mean nothing, and patches are shares of the final error."""

import numpy as np
import pytest

from ffn_probe.attribution.attribution import Attribution
from ffn_probe.attribution.explain import attribution_of
from ffn_probe.attribution.shapley import coalitions, shapley_values
from tests.attribution.toy import (
    INPUT,
    SEQUENCES,
    TOKENS,
    WORDS,
    Toy,
    changed,
    effect,
    frame,
    gelu,
    joined,
    layer_norm,
    model,
    name,
    quick_gelu,
    rms_norm,
    tables,
)

PARTS = ("norm", "activation", "w_up", "w_down")


def played(candidate: Toy) -> dict[str, np.ndarray]:
    """Return the Shapley energies of layer 0 by fold, "total" and what each makes alone."""
    own = model()[0]
    fields = {"norm": "norm", "activation": "act", "w_up": "up", "w_down": "down"}

    def energy(chosen: frozenset[str]) -> np.ndarray:
        kept = {fields[p]: getattr(candidate if p in chosen else own, fields[p]) for p in PARTS}
        out = Toy(**kept).run(INPUT)["out"]
        return np.asarray(((out - own.run(INPUT)["out"]) ** 2).sum((1, 2)))

    values = {chosen: energy(chosen) for chosen in coalitions(PARTS)}
    alone = {f"alone:{p}": values[frozenset({p})] for p in PARTS}
    return {**shapley_values(PARTS, values), "total": values[frozenset(PARTS)], **alone}


def explained(candidate: Toy, played_: dict[str, np.ndarray]) -> Attribution:
    blocks = (candidate, *model()[1:])
    rows = [r for p, v in played_.items() for r in effect("shapley", p, v, layer=0)]
    effects = joined(tables(blocks).frames["effects"], frame("effects", rows))
    return attribution_of(tables(blocks, effects=effects))


def toy(**changes: object) -> Toy:
    return changed(0, **changes)[0]


# Shapley


def test_the_shares_of_a_block_add_to_one_and_the_worst_is_first() -> None:
    candidate = toy(norm=rms_norm, act=quick_gelu, up=model()[0].up * 1.001)
    found = explained(candidate, played(candidate))
    block = found.blocks[0]
    shares = [cause.share.value for cause in block.causes]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)
    assert {cause.part for cause in block.causes} == set(PARTS)
    assert block.causes[0].part == "norm"
    assert next(c.share.value for c in block.causes if c.part == "w_down") == 0.0


def test_the_energies_of_the_causes_add_to_the_blocks_own() -> None:
    candidate = toy(norm=rms_norm, act=quick_gelu)
    block = explained(candidate, played(candidate)).blocks[0]
    assert sum(cause.energy for cause in block.causes) == pytest.approx(block.energy)


def test_one_part_alone_has_it_all() -> None:
    candidate = toy(act=quick_gelu)
    found = explained(candidate, played(candidate))
    first = found.blocks[0].causes[0]
    assert (first.part, first.share.value) == ("activation", pytest.approx(1.0))
    assert first.share.low == pytest.approx(1.0)
    assert found.blocks[0].interaction == pytest.approx(0.0)
    assert "All of the blocks' own error is made by the activation." in found.verdict


def test_parts_that_undo_each_other_are_not_separable() -> None:
    """Twice the up projection and half the down one: alone each is large, together they are
    small under an activation that is nearly linear."""
    own = model()[0]
    candidate = toy(up=2 * own.up, down=own.down / 2)
    found = explained(candidate, played(candidate))
    block = found.blocks[0]
    assert block.interaction < -0.2
    assert not block.separable
    assert "The parts are not separable: changed one at a time they make" in found.verdict


def test_parts_that_do_not_meet_are_separable() -> None:
    rng = np.random.default_rng(1)
    own = model()[0]
    noise = [1e-3 * rng.standard_normal(m.shape) for m in (own.up, own.down)]
    candidate = toy(up=own.up + noise[0], down=own.down + noise[1])
    block = explained(candidate, played(candidate)).blocks[0]
    assert abs(block.interaction) < 0.05
    assert block.separable


def test_without_values_alone_nothing_is_said_of_the_interaction() -> None:
    candidate = toy(norm=rms_norm, act=quick_gelu)
    values = {k: v for k, v in played(candidate).items() if not k.startswith("alone")}
    block = explained(candidate, values).blocks[0]
    assert np.isnan(block.interaction)
    assert block.separable
    assert len(block.causes) == 4


def test_a_player_that_does_nothing_needs_no_value_alone() -> None:
    candidate = toy(act=quick_gelu)
    values = played(candidate)
    for player in ("norm", "w_up", "w_down"):
        del values[f"alone:{player}"]
    assert explained(candidate, values).blocks[0].interaction == pytest.approx(0.0)


def test_a_block_without_error_has_no_causes() -> None:
    nothing = {k: np.zeros(SEQUENCES) for k in (*PARTS, "total")}
    assert explained(toy(), nothing).blocks[0].causes == ()


def test_the_verdict_shares_the_error_among_the_parts() -> None:
    candidate = toy(norm=rms_norm, act=lambda x: 0.9 * gelu(x))
    found = explained(candidate, played(candidate))
    assert "Of the blocks' own error the norm makes " in found.verdict
    assert " % and the activation makes " in found.verdict


# Patches


def patched(parts: dict[str, float], candidate: tuple[Toy, ...]) -> Attribution:
    """Return an attribution where patches of layer 0 leave that share of the final error."""
    given = tables(candidate)
    final = given.effects("output")["candidate"]["error"].values
    rows = [
        row
        for part, share in parts.items()
        for row in effect("patch", part, share * final, layer=0, count=TOKENS * WORDS)
    ]
    effects = joined(given.frames["effects"], frame("effects", rows))
    return attribution_of(tables(candidate, effects=effects))


def test_patches_are_shares_of_the_final_error() -> None:
    parts = {"back": 0.25, "in": 0.6, "back:norm": 0.4, "back:activation": 0.9}
    block = patched(parts, changed(0, norm=rms_norm)).blocks[0]
    assert block.patched_back is not None
    assert block.patched_in is not None
    assert block.patched_back.value == pytest.approx(0.75)
    assert block.patched_in.value == pytest.approx(0.6)
    assert [(c.part, round(c.share.value, 9)) for c in block.patched_parts] == [
        ("norm", 0.6),
        ("activation", 0.1),
    ]


def test_a_patch_that_saw_half_of_the_tokens_is_measured_against_half() -> None:
    given = tables(changed(0, norm=rms_norm))
    final = given.effects("output")["candidate"]["error"].values
    rows = effect("patch", "back", 0.1 * final / 2, layer=0, count=TOKENS * WORDS // 2)
    effects = joined(given.frames["effects"], frame("effects", rows[:4]))
    found = attribution_of(tables(changed(0, norm=rms_norm), effects=effects))
    assert found.blocks[0].patched_back is not None
    assert found.blocks[0].patched_back.value == pytest.approx(0.9)


def test_a_patch_is_measured_against_the_batches_that_were_patched() -> None:
    """Of which the error may be another than that of all batches of the fold."""
    given = tables(changed(0, norm=rms_norm))
    final = given.effects("output")["candidate"]["error"].values
    rows = effect("patch", "none", 0.5 * final, count=TOKENS * WORDS)
    rows += effect("patch", "back", 0.5 * final, layer=0, count=TOKENS * WORDS)
    effects = joined(given.frames["effects"], frame("effects", rows))
    found = attribution_of(tables(changed(0, norm=rms_norm), effects=effects))
    assert found.blocks[0].patched_back is not None
    assert found.blocks[0].patched_back.value == pytest.approx(0.0)


def test_a_block_that_was_not_patched_has_none() -> None:
    found = patched({"back": 0.5}, changed(0, norm=rms_norm))
    assert found.blocks[1].patched_back is None
    assert found.blocks[0].patched_in is None
    assert found.patched_all is None


def test_equal_models_have_nothing_to_patch() -> None:
    assert patched({"back": 0.5}, model()).blocks[0].patched_back is None


def test_the_toy_plays_with_the_parts_it_names() -> None:
    assert (model()[0].norm, model()[0].act) == (layer_norm, gelu)
    assert name(0) == "layers.0.ffn"

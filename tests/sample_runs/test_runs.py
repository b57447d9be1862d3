"""The stored runs are those of the stored models, recorded by this version."""

import pytest

import ffn_probe as fp
from ffn_probe.runs import SCHEMA_VERSION
from sample_runs.make import HERE
from sample_runs.tiny_lm import VARIANTS, held_back, load

FACTS = ("name", "layer", "kind", "layout", "activation", "norm", "projections", "d_model",
         "d_ff", "experts", "roles", "flags")  # fmt: skip


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_stored_run_is_whole(name: str) -> None:
    run = fp.Run.open(HERE / name)
    assert run.closed
    assert run.problems == ()
    assert run.manifest.schema_version == SCHEMA_VERSION
    assert run.manifest.tags["sample"] == name
    assert (run.manifest.steps, run.manifest.tokens) == (32, 32 * 4 * 256)
    assert [fold["batches"] for fold in run.manifest.folds] == [2] * 16
    assert len({fold["hash"] for fold in run.manifest.folds}) == 16
    for site in run.sites:
        assert run.rows(site)[0] == 32 * 4 * 256
        assert run.summary(site).extremes.nan == 0


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_blocks_of_a_stored_run_are_those_found_today(name: str) -> None:
    found = fp.discover(load(name), held_back(count=1)[0])
    stored = fp.Run.open(HERE / name).blocks
    assert len(found) == 4
    for fact in FACTS:
        assert [getattr(b, fact) for b in stored] == [getattr(b, fact) for b in found]


def test_the_stored_runs_saw_the_same_text() -> None:
    hashes = [
        tuple(fold["hash"] for fold in fp.Run.open(HERE / name).manifest.folds)
        for name in VARIANTS
    ]
    assert len(set(hashes)) == 1


def test_recording_again_gives_the_stored_run(tmp_path: object) -> None:
    stored = fp.Run.open(HERE / "rms-gelu")
    again = fp.record(load("rms-gelu"), held_back(), to=f"{tmp_path}/run")
    if [f["hash"] for f in stored.manifest.folds] != [f["hash"] for f in again.manifest.folds]:
        pytest.skip("this Python carries other sources than the recording one")
    assert fp.compare(stored, again).exit_code == 0
    for site in stored.sites:
        mine, theirs = again.summary(site), stored.summary(site)
        assert mine.extremes.max == pytest.approx(theirs.extremes.max, rel=1e-5)
        assert mine.moments.std == pytest.approx(theirs.moments.std, rel=1e-5)

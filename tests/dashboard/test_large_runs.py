"""The runs of the benchmark: what is planted is found, and the bytes are always the same."""

from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.dashboard import interactions
from benchmarks.large_runs import DEAD, NEW_OUTLIER, OUTLIERS, SMALL, make, planted
from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.compare import Drift


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    make(root, SMALL)
    return root


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    return Library(folder)


def test_the_same_shape_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    make(tmp_path, SMALL)
    one, other = (
        {p.relative_to(root): sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.*")
         if p.is_file()}
        for root in (folder, tmp_path)
    )  # fmt: skip
    assert len(one) > 15
    assert one == other


def test_the_planted_drift_is_found(library: Library) -> None:
    drift: Drift = library.drift("a", "b")
    failed = {(site.layer, site.role) for site in drift.sites if site.status == "FAIL"}
    assert drift.paired
    for layer in planted(SMALL)["scale"]:
        assert {(layer, "value"), (layer, "hidden")} <= failed
    for layer in planted(SMALL)["gate"]:
        assert (layer, "gate") in failed
    for layer in planted(SMALL)["outlier"]:
        assert (layer, "resid") in failed
    assert {layer for layer, _ in failed} <= {n for of in planted(SMALL).values() for n in of}


def test_the_planted_channels_are_found(library: Library) -> None:
    one, other = library.run("a"), library.run("b")
    loud = one.channel_map("resid", "rms", 12)
    known = [channel for channel in OUTLIERS if channel < SMALL.d_model]
    for row in range(SMALL.layers):
        assert set(known) <= set(loud.channels[row].tolist())
    new = other.channel_map("resid", "rms").values[planted(SMALL)["outlier"][0]]
    old = one.channel_map("resid", "rms").values[planted(SMALL)["outlier"][0]]
    at = min(NEW_OUTLIER, SMALL.d_model - 1)
    assert new[at] / old[at] == pytest.approx(40, rel=0.05)
    quiet = one.channel_map("hidden", "active").values[0]
    assert [int(i) for i in (quiet == 0).nonzero()[0]] == [c for c in DEAD if c < SMALL.d_ff]


@pytest.mark.parametrize(("name", "url"), interactions(SMALL).items())
def test_every_interaction_of_the_benchmark_is_a_page(
    library: Library, name: str, url: str
) -> None:
    path, _, search = url.partition("?")
    page = render(library, path, search)
    assert not page.error, (name, page.content)

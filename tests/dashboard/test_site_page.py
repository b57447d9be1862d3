"""One site of a comparison as a function of a folder and a URL."""

from pathlib import Path

import numpy as np

from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from tests.compare.made_runs import draws, make_run
from tests.dashboard.trees import links, of, rows

SAMPLES = Path(__file__).parents[2] / "sample_runs"
A, B = "ln-gelu", "rms-swiglu"
LIBRARY = Library(SAMPLES)
BOTH = f"?a={A}&b={B}"


def test_a_site_shows_both_distributions_and_every_statistic() -> None:
    page = render(LIBRARY, "/compare/site", BOTH + "&site=layers.2.ffn/hidden")
    density, cumulative, moved, folds = of(page.content, "Graph")
    assert [trace.name for trace in density.figure.data] == [A, B]
    assert "unit of the tensor" in cumulative.figure.layout.xaxis.title.text
    drift = compare(SAMPLES / A, SAMPLES / B)
    site = next(s for s in drift.sites if s.name == "layers.2.ffn/hidden")
    ranges = {tuple(g.figure.layout.xaxis.range) for g in (density, cumulative, moved)}
    assert len(ranges) == 1
    assert "multiples of the practical threshold" in folds.figure.layout.xaxis.title.text
    assert len(
        [row for row in rows(page.content) if row[0][2:] in {"PASS", "WARN", "FAIL"}]
    ) == len(site.changes)
    assert links(page.content)["\u2190 1"].endswith("site=layers.1.ffn%2Fhidden")
    assert links(page.content)["gate"].endswith("site=layers.2.ffn%2Fgate")


def test_a_site_of_a_mixture_leads_to_its_other_experts(tmp_path: Path) -> None:
    sites = {Site(0, "mlp", "gate", e): draws(e) for e in range(3)}
    make_run(tmp_path / "a", sites, inputs="x")
    make_run(tmp_path / "b", {s: [x * np.float32(2) for x in v] for s, v in sites.items()})
    page = render(Library(tmp_path), "/compare/site", "?a=a&b=b&site=mlp/gate%231")
    assert page.title == "layer 0 gate#1 - ffn-probe"
    assert links(page.content)["#2"].endswith("site=mlp%2Fgate%232")

"""The comparison as a function of a folder and a URL."""

from pathlib import Path

import pytest

from dashboard.app import target
from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.compare import compare
from ffn_probe.report.words import number
from tests.dashboard.trees import links, of, rows, text

SAMPLES = Path(__file__).parents[2] / "sample_runs"
A, B = "ln-gelu", "rms-swiglu"
LIBRARY = Library(SAMPLES)
BOTH = f"?a={A}&b={B}"


def test_a_comparison_says_its_verdict_and_its_limits() -> None:
    drift = compare(SAMPLES / A, SAMPLES / B)
    said = text(render(LIBRARY, "/compare", BOTH).content)
    assert drift.verdict.sentence in said
    assert "4 blocks are mlp in one run and glu in the other" in said
    assert "8 sites only in rms-swiglu" in said
    assert "layers.0.ffn/gate_act" in said
    assert "block.activation" in said


def test_the_worst_sites_carry_the_numbers_of_the_drift() -> None:
    drift = compare(SAMPLES / A, SAMPLES / B)
    found = [row for row in rows(render(LIBRARY, "/compare", BOTH).content) if len(row) == 12]
    assert len(found) == sum(site.status != "PASS" for site in drift.sites)
    for row, site in zip(found, drift.worst(100), strict=False):
        change = site.worst
        assert row[1:5] == [
            f"layer {site.layer} {site.role}", change.aspect, change.statistic,
            number(change.value, signed=True),
        ]  # fmt: skip


def test_every_worst_site_leads_to_its_own_page() -> None:
    found = links(render(LIBRARY, "/compare", BOTH).content)
    for site in compare(SAMPLES / A, SAMPLES / B).worst(3):
        name = f"layer {site.layer} {site.role}"
        where = f"/compare/site?a={A}&b={B}&site={site.block_a}%2F{site.role}"
        assert found[name] == where
        path, _, search = where.partition("?")
        assert render(LIBRARY, path, "?" + search).title == f"{name} - ffn-probe"


def test_the_heatmap_is_named_and_its_cells_lead_to_sites() -> None:
    page = render(LIBRARY, "/compare", BOTH)
    (graph,) = of(page.content, "Graph")
    assert graph.id["to"] == "/compare/site"
    (image,) = [div for div in of(page.content, "Div") if getattr(div, "role", "") == "img"]
    assert "17 sites failed and 3 are suspicious of 20" in getattr(image, "aria-label")
    cell = {"points": [{"customdata": "layers.0.ffn/out"}]}
    where = target(cell, "/compare/site", BOTH)
    assert where == f"/compare/site?a={A}&b={B}&site=layers.0.ffn%2Fout"


@pytest.mark.parametrize(
    "clicked", [None, {}, {"points": []}, {"points": [{}]}, {"points": [{"customdata": ""}]}]
)
def test_a_click_on_nothing_leads_nowhere(clicked: dict[str, object] | None) -> None:
    assert target(clicked, "/compare/site", BOTH) == ""

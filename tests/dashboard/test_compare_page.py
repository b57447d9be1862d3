"""The comparison as a function of a folder and a URL."""

import json
from pathlib import Path

import numpy as np
import pytest
from plotly.utils import PlotlyJSONEncoder

from dashboard.app import target
from dashboard.components.page import Page
from dashboard.data import Library
from dashboard.routes import render
from ffn_probe.compare import SiteDrift, compare
from ffn_probe.compare.tolerance import MULTIPLIERS, worst_of
from ffn_probe.report.words import number
from tests.dashboard.made_drifts import NOTES, alone, large, library, site
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
    assert len(found) == sum(worst.status != "PASS" for worst in drift.sites)
    for row, worst in zip(found, drift.worst(100), strict=False):
        change = worst.worst
        assert row[1:5] == [
            f"layer {worst.layer} {worst.role}", change.aspect, change.statistic,
            number(change.value, signed=True),
        ]  # fmt: skip


def test_every_worst_site_leads_to_its_own_page() -> None:
    found = links(render(LIBRARY, "/compare", BOTH).content)
    for worst in compare(SAMPLES / A, SAMPLES / B).worst(3):
        name = f"layer {worst.layer} {worst.role}"
        where = f"/compare/site?a={A}&b={B}&site={worst.block_a}%2F{worst.role}"
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


# ---- made comparisons -------------------------------------------------------------------


def shown(library: Library, search: str = "") -> Page:
    return render(library, "/compare", "?a=a&b=b" + search)


def sites_of(page: Page) -> list[list[str]]:
    return [row for row in rows(page.content) if len(row) == 12]


SITES = (
    site(0, "gate", 0.5), site(0, "out", 1.5), site(1, "gate", 4.0), site(1, "out", 0.1),
)  # fmt: skip


def test_what_refuses_a_comparison_stands_first_of_all() -> None:
    said = text(shown(library(SITES, validity=NOTES)).content)
    places = [said.index(part) for part in ("refuse", "other", "warn", "\u2192", "FAIL")]
    assert places == sorted(places)


def test_the_counters_lead_to_their_aspect_and_back() -> None:
    page = shown(library(SITES), "&sort=depth")
    cards = {text(a.children).split()[0]: a for a in of(page.content, "Link")
             if "count" in getattr(a, "className", "")}  # fmt: skip
    assert list(cards) == list(dict.fromkeys(c.aspect for c in SITES[0].changes))
    assert text(cards["tail"].children) == "tail \u2715 1 failed, 1 suspicious"
    assert text(cards["nonfinite"].children) == "nonfinite \u2713 none"
    assert cards["tail"].href == "/compare?a=a&b=b&sort=depth&aspect=tail"
    within = shown(library(SITES), "&aspect=tail")
    (back,) = [a for a in of(within.content, "Link")
               if getattr(a, "className", "") == "count here"]  # fmt: skip
    assert back.href == "/compare?a=a&b=b"


def test_an_aspect_shows_its_changes_only() -> None:
    page = shown(library(SITES), "&aspect=sparsity")
    assert {row[2] for row in sites_of(page)} == {"sparsity"}
    assert "Sites: sparsity" in text(page.content)
    assert set(page.data["sites"]().aspect) == {"sparsity"}


def test_failures_come_first_or_the_order_of_the_heatmap() -> None:
    worst = [row[1] for row in sites_of(shown(library(SITES)))]
    assert worst == ["layer 1 gate", "layer 0 out", "layer 0 gate", "layer 1 out"]
    deep = [row[1] for row in sites_of(shown(library(SITES), "&sort=depth"))]
    assert deep == ["layer 0 gate", "layer 0 out", "layer 1 gate", "layer 1 out"]


def test_a_row_has_its_threshold_its_floor_and_its_folds() -> None:
    row = sites_of(shown(library(SITES)))[0]
    change = worst_of(SITES[2])
    assert change is not None
    assert row[4:11] == [
        number(change.value, signed=True), change.unit, number(change.threshold), "4",
        number(change.floor), "16\u00d7", "16",
    ]  # fmt: skip


def test_the_statuses_are_drawn_as_judged_with_what_the_slider_needs() -> None:
    page = shown(library(SITES))
    held = [s for s in of(page.content, "Span") if getattr(s, "className", "") == "held"]
    first = held[0]
    assert text(first.children).endswith("FAIL")
    fails, warns = (int(getattr(first, name)) for name in ("data-fails", "data-warns"))
    assert MULTIPLIERS[fails] == 2.0  # 4 thresholds fail below 2 times
    assert MULTIPLIERS[warns] == 4.0


def test_a_link_with_a_threshold_restores_it() -> None:
    page = shown(library(SITES), "&thr=3")
    assert "0 fail, 1 suspicious at 3\u00d7 the thresholds" in text(page.content)
    (field,) = [i for i in of(page.content, "Input") if i.id == "threshold"]
    assert MULTIPLIERS[field.value] == 3.0
    (graph,) = of(page.content, "Graph")
    assert [list(row) for row in graph.figure.data[0].text] == [["", "!"], ["", ""]]
    frame = page.data["sites"]()
    assert list(frame.status_at_multiplier) == ["WARN", "PASS", "PASS", "PASS"]
    assert list(frame.status) == ["FAIL", "WARN", "PASS", "PASS"]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("&thr=7", "no multiplier of the thresholds '7'"),
        ("&thr=x", "no multiplier of the thresholds 'x'"),
        ("&by=size", "no choice of 'by' 'size'"),
        ("&aspect=tails", "Did you mean 'tail'?"),
        ("&sort=up", "no choice of 'sort' 'up'"),
        ("&only=x", "no choice of 'only' 'x'"),
        ("&rows=x", "no choice of 'rows' 'x'"),
    ],
)
def test_a_choice_that_there_is_not_says_what_there_is(search: str, said: str) -> None:
    assert said in text(shown(library(SITES), search).content)


def test_the_floor_comes_first_unless_there_is_none() -> None:
    def here(page: Page) -> set[str]:
        chips = [a for a in of(page.content, "Link") if "here" in getattr(a, "className", "")]
        return {text(a.children) for a in chips}

    assert "times the floor" in here(shown(library(SITES)))
    bare = library([site(0, "gate", 4.0, floor=None), site(1, "gate", 0.1, floor=None)])
    page = shown(bare)
    assert "times the threshold" in here(page)
    assert "2 of 2 sites have no floor" in text(page.content)
    forced = shown(bare, "&by=floor")
    (graph,) = of(forced.content, "Graph")
    assert np.isfinite(graph.figure.data[0].z).all()


def test_missing_sites_are_hatched_and_named() -> None:
    page = shown(library(SITES, only_a=alone((0, 1), "value"), only_b=alone((1,), "hidden")))
    said = " ".join(text(page.content).split())
    assert "only in a : value of layers 0 and 1." in said
    assert "only in b : hidden of layer 1." in said
    assert "layers.1/hidden" in said
    (graph,) = of(page.content, "Graph")
    assert sorted(graph.figure.data[1].text) == ["A", "A", "B"]
    frame = page.data["one_sided"]()
    assert frame[["side", "role"]].to_numpy().tolist() == [
        ["a", "value"], ["a", "value"], ["b", "hidden"],
    ]  # fmt: skip


def test_a_mixture_shows_its_worst_expert_by_name() -> None:
    experts = [site(0, "gate", size, expert=e) for e, size in enumerate((0.2, 4.0, 1.5))]
    page = shown(library(experts))
    (graph,) = of(page.content, "Graph")
    assert "layer 0 gate expert 1 (worst of 3)" in graph.figure.data[0].hovertext[0][0]
    assert graph.figure.data[0].customdata[0][0] == "layers.0/gate#1"
    assert len(sites_of(page)) == 3


def test_a_mixture_drifts_as_long_as_any_of_its_experts_does() -> None:
    """Expert 0 fails and is the worst; expert 1, without a floor, is suspicious far longer."""
    experts = [site(0, "gate", 3.0, expert=0), site(0, "gate", 9.0, expert=1, floor=None)]
    for multiplier, sign in (("1", "\u2715"), ("2", "!"), ("8", "!"), ("10", "")):
        page = shown(library(experts), f"&thr={multiplier}")
        (graph,) = of(page.content, "Graph")
        assert graph.figure.data[0].text[0][0] == sign


def test_eighty_layers_are_a_bounded_page() -> None:
    """200 rows at first; words, data and colours of 560 sites in 700 kB."""
    sites = library(large())
    page = shown(sites)
    assert len(sites_of(page)) == 200
    assert "200 of 560 sites" in text(page.content)
    assert len(page.data["sites"]()) == 560
    assert len(json.dumps(page.content, cls=PlotlyJSONEncoder)) < 700_000
    (graph,) = of(page.content, "Graph")
    assert len(graph.figure.layout.xaxis.tickvals) <= 24


def test_all_rows_are_shown_on_demand() -> None:
    sites = library(large(30))
    assert len(sites_of(shown(sites))) == 200
    assert len(sites_of(shown(sites, "&rows=all"))) == 210


def test_of_what_fails_the_worst_are_shown_in_the_order_asked_for() -> None:
    page = shown(library(large(30)), "&only=fail&sort=depth")
    found = [row[1] for row in sites_of(page)]
    assert len(found) == 200
    assert "Of 200 of 210 sites, those that do not pass" in text(page.content)
    layers = [int(name.split()[1]) for name in found]
    assert layers == sorted(layers)
    assert layers[-1] == 29
    assert layers.count(0) < 7


def test_names_from_runs_are_text() -> None:
    odd = SiteDrift.of(
        (0, "<i>r</i>", -1, "<b>x</b>", "<b>x</b>"), site(0, "gate", 4.0).changes
    )
    page = shown(library([odd], only_a=alone((0,), "<img src=x>")))
    (graph,) = of(page.content, "Graph")
    assert "&lt;i&gt;r" in graph.figure.data[0].hovertext[0][0]
    assert "&lt;img" in graph.figure.data[1].hovertext[0]
    hrefs = [a.href for a in of(page.content, "Link")]
    assert any("site=%3Cb%3Ex%3C%2Fb%3E%2F%3Ci%3Er" in where for where in hrefs)


def test_the_twin_holds_every_change_and_setting() -> None:
    page = shown(library(SITES, config_diff=(("dtype", "float32", "bfloat16"),)))
    assert list(page.data) == ["sites", "changes", "settings", "one_sided"]
    assert len(page.data["changes"]()) == sum(len(s.changes) for s in SITES)
    assert page.data["settings"]().to_numpy().tolist() == [["dtype", "float32", "bfloat16"]]
    assert page.command == "ffn-probe compare /runs/a /runs/b"
    assert page.report == "/report/drift?a=a&b=b"

"""The page that explains a paired run."""

import json
from pathlib import Path

import pytest

from dashboard.components.page import Page
from dashboard.data import Library
from dashboard.files import written
from dashboard.pages.explain import story_page
from dashboard.routes import query_of, render
from ffn_probe.anatomy import Site
from ffn_probe.report.paired import Story
from tests.compare.made_runs import draws, make_run
from tests.dashboard.trees import links, of, rows, text
from tests.report import made_attributions as made

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LIBRARY = Library(SAMPLES)
PAIRED = ("planted", "swap-exact", "swap-naive", "trained-apart")


def shown(run: str, more: str = "") -> Page:
    return render(LIBRARY, "/explain", f"?run={run}{more}")


def labels(page: Page) -> list[str]:
    found = [p for p in of(page.content, "Div") if getattr(p, "role", "") == "img"]
    return [p.to_plotly_json()["props"]["aria-label"] for p in found]


# ---- the sample runs --------------------------------------------------------------------


@pytest.mark.parametrize("run", PAIRED)
def test_every_paired_sample_says_its_verdict_and_leads_to_its_report(run: str) -> None:
    page, told = shown(run), LIBRARY.attribution(run)
    said = text(page.content).replace("  ", " ")
    assert told.verdict.split(". ")[0] in said
    assert told.status.upper() in said
    assert page.report == f"/report/attribution?run={run}"
    assert page.command == f"ffn-probe show {SAMPLES / run}"
    assert next(iter(page.data)) == "blocks"


def test_the_planted_bug_is_named_with_its_fix_and_its_block_is_open() -> None:
    page = shown("planted")
    said = text(page.content)
    assert 'config.hidden_act = "gelu"' in said
    assert "The activation stage injects the most: 30.4 dB, floor 120.6 dB." in said
    assert "encoder.layer.3" in said
    assert any(
        label.startswith("1 of 6 hypotheses fit. Best: activation") for label in labels(page)
    )


def test_a_block_of_the_address_is_shown_with_the_way_to_its_neighbours() -> None:
    page = shown("planted", "&block=encoder.layer.1")
    found = {
        a.className: a.href for a in of(page.content, "Link") if getattr(a, "className", "")
    }
    assert found["button prev-layer"] == "/explain?run=planted&block=encoder.layer.0"
    assert found["button next-layer"] == "/explain?run=planted&block=encoder.layer.2"
    assert "No stage injects an error above its floor." in text(page.content)


def test_the_ends_have_no_neighbour_beyond() -> None:
    first = shown("planted", "&block=encoder.layer.0")
    assert "prev-layer" not in str(of(first.content, "Link"))
    last = shown("planted", "&block=encoder.layer.5")
    assert "next-layer" not in str(of(last.content, "Link"))


def test_an_unknown_block_is_said_with_those_there_are() -> None:
    page = shown("planted", "&block=encoder.layer.9")
    assert page.error
    assert "encoder.layer.0" in text(page.content)


def test_a_swap_shows_its_factors_its_norm_and_its_gate() -> None:
    said = text(shown("swap-naive").content)
    assert "Bias loss: 89.9 % of the norm's error." in said
    assert "82.1 % falls into the dip, on 57.3 % of the gate's values." in said
    assert "Two factors, apart and together" in said
    assert "Not separable" in said


def test_what_pairs_in_no_way_shows_likeness_and_says_why() -> None:
    page = shown("trained-apart")
    assert any("Likeness of 4 blocks" in label for label in labels(page))
    assert "the models were trained apart" in text(page.content)
    assert "Which stage makes the error" not in text(page.content)


def test_shares_of_an_error_under_the_floor_are_not_drawn() -> None:
    said = text(shown("swap-exact").content)
    assert "no share of it means anything" in said


def test_what_was_not_recorded_is_named_with_how_to_get_it() -> None:
    found = {row[0]: row[1] for row in rows(shown("swap-naive").content) if len(row) == 2}
    assert found["Known bugs"] == "replay with --autopsy"
    planted = {row[0] for row in rows(shown("planted").content) if len(row) == 2}
    assert "Known bugs" not in planted
    assert "Two factors" in planted


@pytest.mark.parametrize("run", PAIRED)
def test_every_chart_has_words_and_a_table_of_numbers(run: str) -> None:
    page = shown(run)
    assert len(labels(page)) == len(of(page.content, "Graph"))
    assert all(any(c.isdigit() for c in label) for label in labels(page))
    assert len(of(page.content, "Table")) >= len(of(page.content, "Graph"))
    assert all(of(t, "Caption") for t in of(page.content, "Table"))


def test_the_twin_holds_the_numbers_of_the_attribution() -> None:
    query = query_of("?run=planted")
    data, _ = written(shown("planted"), "json", "/explain", query)
    tables = json.loads(data)["tables"]
    told = LIBRARY.attribution("planted")
    assert [row["block"] for row in tables["blocks"]] == [b.block for b in told.blocks]
    assert len(tables["hypotheses"]) == len(told.hypotheses)
    assert tables["blocks"][0]["local_db"] == "Infinity"


# ---- without a paired run ---------------------------------------------------------------


def test_a_run_of_one_model_says_how_to_make_a_pair() -> None:
    page = shown("ln-gelu")
    assert "ffn-probe replay REFERENCE CANDIDATE" in text(page.content)
    assert [text(h) for h in of(page.content, "H1")] == ["Explain ln-gelu"]
    assert links(page.content)["planted"] == "/explain?run=planted"
    assert not page.data


def test_without_a_run_one_is_chosen_and_without_any_one_is_made(tmp_path: Path) -> None:
    found = links(render(LIBRARY, "/explain", "").content)
    assert {name for name in PAIRED} <= set(found)  # noqa: C416
    folder = tmp_path / "my runs"
    make_run(folder / "one", {Site(0, "mlp", "gate"): draws(0)})
    empty = render(Library(folder), "/explain", "")
    assert f"--to '{folder / 'pair'}'" in empty.command


# ---- stories that are hard to draw ------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [made.quick_gelu, made.two_swaps, made.healthy, made.nothing_told, made.unpaired,
     made.nothing, made.cancelling],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_every_kind_of_story_is_a_page(told: object) -> None:
    found = told()  # type: ignore[operator]
    page = story_page(Story(found, made.gates(found)), "pair")
    assert found.status.upper() in text(page.content)
    assert not page.error


def test_eighty_layers_stay_readable_and_bounded() -> None:
    told = made.deep(80)
    page = story_page(Story(told), "pair", block=told.blocks[41].block)
    depth = of(page.content, "Graph")[0].figure
    assert len(depth.layout.xaxis.ticktext) <= 24
    assert f"[{told.blocks[41].layer}]" in depth.layout.xaxis.ticktext
    assert max(len(of(t, "Tr")) for t in of(page.content, "Table")) <= 501


def test_markup_in_names_is_never_markup() -> None:
    told = made.evil()
    page = story_page(Story(told), made.EVIL)
    for graph in of(page.content, "Graph"):
        drawn = json.dumps(graph.figure.to_plotly_json(), default=str)
        # plotly reads text and labels as HTML; `customdata` only ever becomes a query.
        for key in ('"text": "<script', '"name": "<script', '"title": {"text": "<script'):
            assert key not in drawn
        assert "<script" not in json.dumps(graph.figure.to_dict()["layout"], default=str)
    hrefs = [link.href for link in of(page.content, "Link")]
    assert hrefs
    assert all(h.startswith("/") and "<" not in h for h in hrefs)

"""Pages as plain functions of a folder and a URL."""

import os
import shutil
from pathlib import Path

import pytest

from dashboard.components.page import href
from dashboard.data import Library
from dashboard.routes import query_of, render
from ffn_probe.anatomy import Site
from ffn_probe.compare import ASPECTS, STATISTICS
from ffn_probe.measures import MEASURES
from ffn_probe.report.words import number
from tests.compare.made_runs import draws, make_run
from tests.dashboard.trees import links, of, rows, text

SAMPLES = Path(__file__).parents[2] / "sample_runs"
A, B = "ln-gelu", "rms-swiglu"
LIBRARY = Library(SAMPLES)
BOTH = f"?a={A}&b={B}"


# ---- runs -------------------------------------------------------------------------------


def test_the_runs_are_listed_with_what_they_are() -> None:
    page, made = render(LIBRARY, "/", ""), LIBRARY.run(B).manifest
    assert page.title == "Runs - ffn-probe"
    assert {row[2]: row[2:13] for row in rows(page.content)}[B] == [
        B, "closed", made.model["class"], "rmsnorm", "silu glu", "float32", "4",
        str(made.windows), str(made.steps), f"{made.tokens:,}",
        made.created[:16].replace("T", " "),
    ]  # fmt: skip
    assert len(rows(page.content)) == len(list(SAMPLES.glob("*/run.json")))


def test_a_paired_run_is_no_side_of_a_comparison() -> None:
    page = render(LIBRARY, "/", "?a=swap-naive")
    assert text(page.content).count("choose one below") == 2
    paired = [row for row in rows(page.content) if row[0] == "paired"]
    assert [row[2] for row in paired] == [
        "planted",
        "swap-exact",
        "swap-naive",
        "trained-apart",
    ]


def test_a_paired_run_says_its_verdict_and_leads_to_its_report() -> None:
    page, told = render(LIBRARY, "/run", "?run=swap-naive"), LIBRARY.attribution("swap-naive")
    assert told.verdict in text(page.content)
    assert [row[1] for row in rows(page.content)][:4] == [b.block for b in told.blocks]
    assert links(page.content)["Explain it"] == "/explain?run=swap-naive"
    assert page.report == "/report/attribution?run=swap-naive"


def test_two_chosen_runs_lead_to_their_comparison() -> None:
    one = render(LIBRARY, "/", f"?a={A}").content
    assert "Compare" not in links(one)
    picks = [link for link in of(one, "Link") if "pick" in getattr(link, "className", "")]
    assert [p.href for p in picks if "chosen" in p.className] == ["/"]
    assert f"/?a={A}&b={B}" in {p.href for p in picks}
    assert links(render(LIBRARY, "/", BOTH).content)["Compare"] == f"/compare?a={A}&b={B}"


def test_a_choice_of_what_is_not_there_is_none() -> None:
    page = render(LIBRARY, "/", "?a=nowhere&b=%3Cb%3E")
    assert text(page.content).count("choose one below") == 2


def test_an_empty_folder_says_how_to_record(tmp_path: Path) -> None:
    said = text(render(Library(tmp_path), "/", "").content)
    assert "No runs yet" in said
    assert f"ffn-probe record MODEL --data FILE --to {tmp_path}/base" in said


def test_a_broken_run_stands_in_the_table_with_its_reason(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / A, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    found = rows(render(Library(tmp_path), "/", "").content)
    assert found[1][2:4] == ["bad", "\u2715 broken"]
    assert "not a readable manifest" in found[1][4]
    assert found[0][2] == "good"


def test_the_runs_are_sorted_by_any_column_and_the_broken_stay_last(tmp_path: Path) -> None:
    for name, steps in (("b", 3), ("a", 1), ("c", 2)):
        make_run(tmp_path / name, {Site(0, "mlp", "gate"): draws(0)}, steps=steps)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "run.json").write_text("{")
    library = Library(tmp_path)
    for by, order in (("", "abc0"), ("steps", "acb0"), ("-steps", "bca0"), ("-run", "cba0")):
        page = render(library, "/", f"?sort={by}" if by else "")
        assert "".join(row[2] for row in rows(page.content)) == order
    assert "Did you mean 'steps'?" in text(render(library, "/", "?sort=step").content)


def test_the_page_of_a_run_that_grows_is_drawn_anew(tmp_path: Path) -> None:
    make_run(tmp_path / "live", {Site(0, "mlp", "gate"): draws(0)}, close=False)
    library = Library(tmp_path)
    before = render(library, "/", "").version
    assert before == render(library, "/", "").version != ""
    manifest = tmp_path / "live" / "run.json"
    manifest.write_text(manifest.read_text().replace('"steps": 0', '"steps": 7'))
    os.utime(manifest, ns=(1, 1))
    assert render(library, "/", "").version != before


def test_a_run_that_is_open_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "live", {Site(0, "mlp", "gate"): draws(0)}, close=False)
    assert rows(render(Library(tmp_path), "/", "").content)[0][3] == "\u25cf open"


# ---- a run ------------------------------------------------------------------------------


def test_a_run_shows_a_measure_and_leads_to_every_other() -> None:
    page = render(LIBRARY, "/run", f"?run={B}&measure=kurtosis_fisher")
    assert "excess kurtosis" in text(page.content)
    size = LIBRARY.run(B).manifest.model["parameters"]
    assert f"{size:,} parameters" in text(page.content)
    (graph,) = of(page.content, "Graph")
    assert graph.id["to"] == "/run"
    chosen = of(page.content, "Option")
    assert {option.value for option in chosen} == {entry.name for entry in MEASURES}
    assert [o.value for o in chosen if getattr(o, "selected", False)] == ["kurtosis_fisher"]


def test_a_run_lists_its_blocks_with_what_they_are() -> None:
    blocks = LIBRARY.run(B).blocks
    found = [
        row for row in rows(render(LIBRARY, "/run", f"?run={B}").content) if len(row) == 11
    ]
    assert [row[:5] for row in found] == [
        [str(b.layer), b.name, b.kind, b.layout, b.activation] for b in blocks
    ]
    assert [row[9] for row in found] == [number(b.recompute_error) for b in blocks]


def test_a_run_says_what_was_noticed_or_that_nothing_was(tmp_path: Path) -> None:
    make_run(tmp_path / "good", {Site(0, "mlp", "gate"): draws(0)})
    make_run(
        tmp_path / "odd", {Site(0, "mlp", "gate"): draws(0)}, warnings=("a tap was silent",)
    )
    said = {name: text(render(Library(tmp_path), "/run", f"?run={name}").content)
            for name in ("good", "odd")}  # fmt: skip
    assert "nothing was noticed" in said["good"]
    assert "nothing was noticed" not in said["odd"]
    assert "a tap was silent" in said["odd"]


def test_a_training_that_runs_too_hot_is_a_finding_and_a_healthy_one_is_not() -> None:
    hot = render(LIBRARY, "/run", "?run=train-hot")
    assert "alarms (limit" in text(hot.content)
    assert links(hot.content)["See them over the steps"] == "/training?a=train-hot"
    assert "alarms" not in text(render(LIBRARY, "/run", "?run=train-healthy").content)


def test_the_methods_define_every_measure_and_statistic() -> None:
    page = render(LIBRARY, "/methods", "")
    names = {row[0] for row in rows(page.content)}
    assert {entry.name for entry in MEASURES} <= names
    assert {entry.name for entry in STATISTICS} <= names
    assert set(ASPECTS) <= names
    assert set(page.data) == {"measures", "statistics"}


def test_a_site_of_a_run_shows_its_distribution_and_measures() -> None:
    page = render(LIBRARY, "/run", f"?run={B}&site=layers.3.ffn/value")
    assert len(of(page.content, "Graph")) == 2
    assert "root mean square" in {row[0] for row in rows(page.content)}


@pytest.mark.parametrize("measure", [entry.name for entry in MEASURES])
def test_every_measure_can_be_drawn(measure: str) -> None:
    assert len(of(render(LIBRARY, "/run", f"?run={A}&measure={measure}").content, "Graph")) == 1


# ---- what cannot be shown ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "search", "said"),
    [
        ("/nowhere", "", "There is no page '/nowhere'"),
        ("/compare", "", "A comparison takes a reference and a candidate"),
        ("/compare", f"?a={A}&b=rms-swigluu", "Did you mean 'rms-swiglu'?"),
        ("/compare", f"?a={A}&b=../../etc", "no run '../../etc'"),
        ("/compare/site", BOTH + "&site=layers.9", "no site 'layers.9'"),
        ("/run", "?run=x", "no run 'x'"),
        ("/run", f"?run={A}&measure=rmss", "Did you mean 'rms'?"),
        ("/run", f"?run={A}&site=y", "no site 'y'"),
    ],
)
def test_what_is_not_there_gets_a_page_that_says_so(path: str, search: str, said: str) -> None:
    page = render(LIBRARY, path, search)
    assert said in text(page.content)
    assert links(page.content)["To the runs"] == "/"


def test_a_damaged_part_gets_a_page_that_names_it(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / A, tmp_path / "a")
    part = next((tmp_path / "a" / "moments").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    for path, search in (("/run", "?run=a"), ("/compare", "?a=a&b=a")):
        assert part.name in text(render(Library(tmp_path), path, search).content)


def test_runs_with_nothing_in_common_get_a_page_that_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {Site(0, "x", "gate"): draws(0)})
    make_run(tmp_path / "b", {Site(0, "x", "resid"): draws(0)})
    page = render(Library(tmp_path), "/compare", "?a=a&b=b")
    assert "no site in common" in text(page.content)


def test_every_chart_keeps_what_it_shows_on_this_machine() -> None:
    pages = [
        render(LIBRARY, path, search).content
        for path, search in (
            ("/compare", BOTH),
            ("/compare/site", BOTH + "&site=layers.0.ffn/gate"),
            ("/run", f"?run={A}&site=layers.0.ffn/gate"),
        )
    ]
    graphs = of(pages, "Graph")
    assert len(graphs) > 5
    for graph in graphs:
        assert graph.config["showSendToCloud"] is False
        assert graph.config["plotlyServerURL"] == ""
        assert graph.config["displaylogo"] is False


def test_queries_are_read_and_written_as_urls_are() -> None:
    assert query_of("?a=x%2Fy&b=&a=z") == {"a": "x/y"}
    assert href("/run", run="a&b=c#d", site="") == "/run?run=a%26b%3Dc%23d"
    assert query_of(href("/run", run="a&b=c#d").removeprefix("/run")) == {"run": "a&b=c#d"}

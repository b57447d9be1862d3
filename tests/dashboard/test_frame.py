"""What is around the pages: navigation, exports, files of a page, long work."""

import io
import json
import math
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dashboard.app import make_app, target
from dashboard.components.control import chips, select
from dashboard.components.graph import graph
from dashboard.components.page import Page, page, working
from dashboard.data import Library
from dashboard.files import written
from dashboard.routes import ROUTES, render
from dashboard.shell import KEYS, exports, navigation
from dashboard.work import Progress, Work
from ffn_probe.errors import FfnProbeError
from ffn_probe.figures.overlay import overlay
from ffn_probe.sketches import BitHistogram
from tests.dashboard.trees import links, of, text

SAMPLES = Path(__file__).parents[2] / "sample_runs"
LIBRARY = Library(SAMPLES)
CLIENT = make_app(SAMPLES).server.test_client()

VIEWS = (
    ("/", {}),
    ("/run", {"run": "rms-swiglu"}),
    ("/run", {"run": "planted"}),
    ("/compare", {"a": "ln-gelu", "b": "rms-swiglu"}),
    ("/compare/site", {"a": "ln-gelu", "b": "rms-swiglu", "site": "layers.1.ffn/gate"}),
    ("/gate", {"a": "ln-swiglu", "b": "rms-swiglu"}),
    ("/channels", {"a": "ln-gelu", "b": "rms-swiglu"}),
    ("/tokens", {"a": "ln-gelu", "b": "rms-swiglu"}),
    ("/quantization", {"a": "ln-gelu", "b": "rms-swiglu"}),
    ("/training", {"a": "train-healthy", "b": "train-hot"}),
    ("/explain", {"run": "planted"}),
    ("/swaps", {}),
    ("/methods", {}),
)


def of_path(path: str) -> str:
    return path.rstrip("/") or "/runs"


@pytest.mark.parametrize(("path", "query"), VIEWS, ids=lambda v: str(v)[:24])
def test_every_page_is_a_table_too(path: str, query: dict[str, str]) -> None:
    """The twin of a page has the numbers of the page, alike in every format."""
    answer = CLIENT.get(of_path(path) + ".json", query_string=query)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    tables = answer.get_json()["tables"]
    assert tables
    for name, records in tables.items():
        asked = {**query, "table": name}
        csv = CLIENT.get(of_path(path) + ".csv", query_string=asked)
        parquet = CLIENT.get(of_path(path) + ".parquet", query_string=asked)
        if records:
            frame = pd.read_csv(io.BytesIO(csv.data), keep_default_na=False)
            assert len(frame) == len(records)
            assert list(frame.columns) == list(records[0])
        assert len(pd.read_parquet(io.BytesIO(parquet.data))) == len(records)


@pytest.mark.parametrize(("path", "query"), VIEWS, ids=lambda v: str(v)[:24])
def test_every_page_says_what_it_shows_in_words(path: str, query: dict[str, str]) -> None:
    shown = render(LIBRARY, path, "?" + "&".join(f"{k}={v}" for k, v in query.items()))
    assert not shown.error, text(shown.content)
    assert len(of(shown.content, "H1")) == 1
    pictures = [d for d in of(shown.content, "Div") if getattr(d, "role", "") == "img"]
    assert len(pictures) == len(of(shown.content, "Graph"))
    assert all(len(getattr(p, "aria-label")) > 20 for p in pictures)
    tables = of(shown.content, "Table")
    assert tables
    for head in of(shown.content, "Th"):
        assert head.scope in {"col", "row"}
    for choice in of(shown.content, "Select"):
        chosen = [o for o in of(choice, "Option") if getattr(o, "selected", False)]
        assert len(chosen) == 1, f"{getattr(choice, 'data-key')} has no choice that is shown"


def test_pages_carry_what_is_chosen_to_the_others() -> None:
    found = links(navigation(LIBRARY, "/compare", {"a": "ln-gelu", "b": "rms-swiglu"}))
    assert found["Channels"] == "/channels?a=ln-gelu&b=rms-swiglu"
    assert found["Run"] == "/run?run=ln-gelu&a=ln-gelu&b=rms-swiglu"
    assert "Explain" not in found
    found = links(navigation(LIBRARY, "/run", {"run": "rms-swiglu"}))
    assert found["Tokens"] == "/tokens?a=rms-swiglu"
    assert "Compare" not in found
    found = links(navigation(LIBRARY, "/run", {"run": "planted", "a": "ln-gelu"}))
    assert found["Explain"] == "/explain?run=planted&a=ln-gelu"
    assert found["Channels"] == "/channels?a=ln-gelu"
    assert links(navigation(LIBRARY, "/", {"run": "<b>", "a": ""}))["Methods"] == "/methods"


def test_a_page_that_cannot_be_opened_yet_says_what_it_needs() -> None:
    off = [s for s in of(navigation(LIBRARY, "/", {}), "Span")
           if getattr(s, "aria-disabled", "") == "true"]  # fmt: skip
    assert {span.children for span in off} == {
        route.text for route in ROUTES.values() if route.takes
    }
    assert all("first" in span.title for span in off)


def test_a_table_of_a_page_can_be_picked_and_a_wrong_one_is_refused() -> None:
    answer = CLIENT.get("/methods.csv?table=statistics")
    assert answer.data.startswith(b"name,aspect")
    assert 'filename="methods.csv"' in answer.headers["Content-Disposition"]
    answer = CLIENT.get("/methods.csv?table=statistic")
    assert answer.status_code == 404
    assert "Did you mean 'statistics'?" in answer.get_data(as_text=True)
    assert CLIENT.get("/run.json?run=nowhere").status_code == 404
    assert CLIENT.get("/nowhere.json").status_code == 404


def test_numbers_that_are_not_finite_are_named_in_json_and_formulas_are_quoted_in_csv() -> None:
    frame = pd.DataFrame({"x": [1.5, math.nan, math.inf], "name": ["a", "=1+1", "\u202e"]})
    made = page("t", (), data={"x": frame, "lazy": lambda: frame})
    found = json.loads(written(made, "json", "/x", {})[0])["tables"]
    assert [row["x"] for row in found["x"]] == [1.5, "NaN", "Infinity"]
    assert found["lazy"] == found["x"]
    assert b"'=1+1" in written(made, "csv", "/x", {})[0]
    with pytest.raises(FfnProbeError, match="no numbers"):
        written(page("t", ()), "csv", "/x", {})


def test_a_page_offers_its_files_its_link_and_its_command() -> None:
    frame = pd.DataFrame({"x": [1]})
    made = Page("t", "c", {"x": frame, "y": frame}, "ffn-probe show 'a b'", "/report/run?run=x")
    shown = exports("/run", {"run": "x", "table": "z"}, made)
    found = {a.href for a in of(shown, "A")}
    assert {"/report/run.html?run=x", "/run.csv?run=x", "/run.parquet?run=x",
            "/run.csv?run=x&table=y"} <= found  # fmt: skip
    copied = [getattr(b, "data-copy") for b in of(shown, "Button")]
    assert copied == ["", "ffn-probe show 'a b'"]
    assert exports("/run", {}, Page("t", "c", error=True)) is None


def test_a_click_leads_where_its_chart_says() -> None:
    click = {"points": [{"customdata": ["layers.0.ffn", 3]}]}
    assert target(click, "/gate", "?a=x", "block") == "/gate?a=x&block=layers.0.ffn"
    assert target({"points": [{"customdata": 3}]}, "/gate", "", "block") == ""
    assert target({"points": []}, "/gate", "") == ""


def test_controls_hold_their_choice_in_the_address() -> None:
    shown = select("Role", "role", [("gate", "gate"), ("out", "<b>out")], "out")
    (choice,) = of(shown, "Select")
    assert getattr(choice, "data-key") == "role"
    assert [o.value for o in of(shown, "Option") if getattr(o, "selected", False)] == ["out"]
    found = links(chips("View", "view", [("one", "One"), ("two", "Two")], "one", "/x",
                        {"a": "r", "view": "one"}))  # fmt: skip
    assert found["Two"] == "/x?a=r&view=two"


def test_a_chart_has_a_name_its_numbers_and_a_file() -> None:
    figure = overlay(BitHistogram.empty())
    shown = graph(figure, "Nothing at all.", name="x", numbers="the numbers")
    (image,) = [d for d in of(shown, "Div") if getattr(d, "role", "") == "img"]
    assert getattr(image, "aria-label") == "Nothing at all."
    assert [getattr(b, "data-save") for b in of(shown, "Button")] == ["svg", "png"]
    assert "the numbers" in text(of(shown, "Details"))


def test_long_work_says_how_far_it_is_and_then_is_there() -> None:
    gate, work = threading.Event(), Work[str]()

    def slow() -> str:
        gate.wait(20)
        return "done"

    found = work.get("page", slow, wait=0.05)
    assert isinstance(found, Progress)
    shown = working(found)
    assert "One moment" in text(shown.content)
    assert len(of(shown.content, "Progress")) == 1
    assert shown.version.startswith("working")
    gate.set()
    assert work.get("page", slow, wait=20) == "done"


def test_the_help_lists_keys_that_the_script_knows() -> None:
    script = (Path(__file__).parents[2] / "dashboard/assets/keys.js").read_text()
    known = {key.strip() for keys, _ in KEYS for key in keys.split(",")}
    for key in known:
        name = {"Esc": "Escape"}.get(key, key)
        assert any(form in script for form in (f'"{name}"', f"{name}: ()")), key


def test_what_the_app_answers_is_not_kept_by_browsers_for_other_people() -> None:
    headers: Any = CLIENT.get("/").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "'unsafe-eval'" not in headers["Content-Security-Policy"]

"""The dashboard as it is used all day: by mouse, by keyboard, by link, saved to files."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect

from ffn_probe.compare import compare
from tests.dashboard.serving import dashboard
from tests.dashboard.test_frame import VIEWS

pytestmark = pytest.mark.browser

SAMPLES = Path(__file__).parents[2] / "sample_runs"
BOTH = "a=ln-gelu&b=rms-swiglu"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with dashboard(SAMPLES) as (found, _):
        yield found


def url_of(path: str, query: dict[str, str]) -> str:
    return path + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else "")


def drawn(page: Page) -> None:
    """Wait until the page is there and every chart of it is drawn."""
    expect(page.locator("#page h1").first).to_be_visible()
    expect(page.locator("#page .working")).to_have_count(0)
    for chart in page.locator("#page .dash-graph").all():
        expect(chart.locator(".main-svg").first).to_be_attached()


@pytest.mark.parametrize(("path", "query"), VIEWS, ids=lambda v: str(v)[:24])
def test_every_page_opens_without_an_error_and_with_content(
    page: Page, address: str, path: str, query: dict[str, str]
) -> None:
    page.goto(address + url_of(path, query))
    drawn(page)
    expect(page.locator("#page h1").first).not_to_contain_text("cannot be shown")
    for chart in page.locator("#page .js-plotly-plot").all():
        words = chart.locator("text").all_text_contents()
        assert any(re.search(r"[A-Za-z]{3}", word) for word in words), "a chart without words"
        assert chart.locator("path, rect, image").count() > 0
    assert page.locator(".modebar-btn").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_way_by_mouse_from_the_runs_to_a_report(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_title("ln-gelu as the reference").click()
    expect(page.locator(".choice b.a")).to_have_text("ln-gelu")
    page.get_by_title("rms-swiglu as the candidate").click()
    page.get_by_role("link", name="Compare").last.click()
    drawn(page)
    image = page.locator(".map .heatmaplayer image").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.875, box["y"] + box["height"] * 2.5 / 7)
    expect(page).to_have_title("layer 3 gate - ffn-probe")
    drawn(page)
    page.go_back()
    expect(page).to_have_title("ln-gelu against rms-swiglu - ffn-probe")
    page.go_forward()
    expect(page).to_have_title("layer 3 gate - ffn-probe")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="planted").click()
    expect(page.locator(".banner").first).to_contain_text("quick_gelu")
    drawn(page)
    with page.context.expect_page() as opened:
        page.locator(".exports").get_by_role("link", name="HTML").click()
    expect(opened.value.locator("h1")).to_be_visible()
    expect(opened.value.locator("body")).to_contain_text("quick_gelu")


def test_the_same_way_by_keyboard(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?{BOTH}")
    drawn(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    row = page.locator("#page tr.at")
    expect(row).to_have_count(1)
    name = row.locator("a").first.inner_text()
    page.keyboard.press("Enter")
    expect(page).to_have_title(f"{name} - ffn-probe")
    drawn(page)
    where = page.url
    layer = int(re.search(r"layer (\d+)", page.title())[1])  # type: ignore[index]
    page.keyboard.press("]" if layer < 3 else "[")
    expect(page).not_to_have_title(f"{name} - ffn-probe")
    page.keyboard.press("Escape")
    expect(page).to_have_url(where)
    page.keyboard.press("Escape")
    expect(page).to_have_title("ln-gelu against rms-swiglu - ffn-probe")


def test_the_keys_are_explained_and_not_caught_in_fields(page: Page, address: str) -> None:
    page.goto(address)
    drawn(page)
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    expect(page.locator("dialog")).to_contain_text("previous and next layer")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("swap-n?j")
    expect(page.locator("#filter")).to_have_value("swap-n?j")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator("#page tbody tr:not(.filtered)")).to_have_count(0)
    expect(page.locator("#page table")).to_have_class(re.compile("emptied"))


def test_a_filter_stands_in_the_link(page: Page, address: str) -> None:
    page.goto(address)
    drawn(page)
    total = page.locator("#page tbody tr").count()
    page.locator("#filter").fill("layernorm gelu")
    shown = page.locator("#page tbody tr:not(.filtered)")
    expect(shown.first).to_be_visible()
    few = shown.count()
    assert 0 < few < total
    expect(page).to_have_url(re.compile(r"filter=layernorm\+gelu"))
    page.goto(page.url)
    drawn(page)
    expect(shown).to_have_count(few)
    expect(page.locator("#filter")).to_have_value("layernorm gelu")


def test_a_choice_stands_in_the_link_and_back_takes_it_back(page: Page, address: str) -> None:
    page.goto(f"{address}/run?run=rms-swiglu")
    drawn(page)
    page.get_by_label("Measure").select_option("crest")
    expect(page.locator("#page b", has_text="crest factor")).to_be_visible()
    assert "measure=crest" in page.url
    expect(page.locator(".colorbar")).to_contain_text("crest factor")
    page.go_back()
    expect(page.locator("#page b", has_text="root mean square")).to_be_visible()
    expect(page.get_by_label("Measure")).to_have_value("rms")


def test_the_scheme_can_be_switched_and_stays(page: Page, address: str) -> None:
    def background() -> int:
        found = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", found)[:3]))

    page.goto(f"{address}/compare?{BOTH}")
    drawn(page)
    assert background() > 600
    page.keyboard.press("t")
    assert background() < 200
    fill = page.locator(".js-plotly-plot .ytick text").first
    color = fill.evaluate("node => getComputedStyle(node).fill")
    assert sum(map(int, re.findall(r"\d+", color)[:3])) > 380, "labels are not for the dark"
    page.reload()
    drawn(page)
    assert background() < 200
    page.get_by_label("Colour scheme").click()
    assert background() > 600


def test_files_are_saved_and_hold_what_is_shown(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?{BOTH}")
    drawn(page)
    drift = compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")
    files = page.locator(".exports")
    with page.expect_download() as saved:
        files.get_by_role("link", name="CSV", exact=True).click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text())))
    assert saved.value.suggested_filename == "compare.csv"
    with page.expect_download() as saved:
        files.get_by_role("link", name="PARQUET", exact=True).click()
    assert len(pd.read_parquet(saved.value.path())) == len(rows) >= len(drift.sites)
    expect(page.locator("#said")).to_contain_text("compare.parquet saved")
    for kind, begins in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as saved:
            page.locator(".save").first.get_by_role("button", name=kind).click()
        data = Path(saved.value.path()).read_bytes()
        assert data.startswith(begins)
        assert saved.value.suggested_filename.endswith("." + kind.lower())
    answer = page.request.get(f"{address}/compare.json?{BOTH}")
    assert json.loads(answer.text())["query"] == {"a": "ln-gelu", "b": "rms-swiglu"}


def test_the_link_and_the_command_are_copied(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?{BOTH}")
    drawn(page)
    page.locator(".exports").get_by_role("button", name="command").click()
    expect(page.locator("#said")).to_contain_text("command copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("ffn-probe compare ")
    assert "rms-swiglu" in command
    page.keyboard.press("c")
    expect(page.locator("#said")).to_contain_text("link copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def test_a_run_that_grows_appears_by_itself(browser: Browser, tmp_path: Path) -> None:
    import shutil

    with dashboard(tmp_path) as (found, _):
        page = browser.new_page()
        page.goto(found)
        expect(page.locator("h1")).to_have_text("No runs yet")
        shutil.copytree(SAMPLES / "ln-gelu", tmp_path / "fresh")
        expect(page.locator("h1")).to_have_text("Runs", timeout=10_000)
        expect(page.locator("#page tbody tr")).to_contain_text("fresh")
        page.close()


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_every_page_fits_its_window(browser: Browser, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    for path, query in VIEWS:
        page.goto(address + url_of(path, query))
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    page.close()

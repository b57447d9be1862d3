"""The slider over the thresholds in a real browser: no round trip, and the same as a link."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ffn_probe.compare import Drift, compare
from ffn_probe.compare.tolerance import MULTIPLIERS, tolerance
from ffn_probe.figures.trial import tried
from tests.dashboard.serving import dashboard

pytestmark = pytest.mark.browser

SAMPLES = Path(__file__).parents[2] / "sample_runs"
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip
BOTH = "/compare?a=ln-gelu&b=rms-swiglu"
SHOWN = """() => {
    const chart = document.querySelector('.followed .js-plotly-plot');
    const rows = z => Array.from(z, row => Array.from(row, v =>
        v === null || Number.isNaN(v) ? -1 : v));
    const [cells] = chart._fullData;
    return [rows(cells.z), Array.from(cells.text, row => Array.from(row))];
}"""
STATUSES = (
    "e => e.map(x => x.textContent.split(' ').pop() + '=' + x.firstElementChild.className)"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("ln-gelu", "rms-swiglu"):
        shutil.copytree(SAMPLES / name, folder / name)
    with dashboard(folder) as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, "these tests need Chromium (bash .ci/chromium), or leave out -m browser"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made, wrong = context.new_page(), []
    made.set_default_timeout(30_000)
    made.on("pageerror", lambda error: wrong.append(f"error {error}"))
    made.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    yield made
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def drift() -> Drift:
    return compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")


def opened(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator(".followed .heatmaplayer image").first).to_be_visible()
    expect(page.locator("#threshold")).to_have_attribute("aria-valuetext", re.compile("fail"))


def press(page: Page, key: str, times: int) -> None:
    page.locator("#threshold").focus()
    for _ in range(times):
        page.keyboard.press(key)


def statuses(page: Page) -> Any:
    return page.locator(".held").evaluate_all(STATUSES)


def test_the_slider_names_and_colours_anew_without_asking_the_server(
    page: Page, address: str, drift: Drift
) -> None:
    opened(page, address + BOTH)
    before, asked = page.evaluate(SHOWN), []
    page.on("request", lambda r: asked.append(r.url) if "favicon" not in r.url else None)
    press(page, "ArrowRight", 3)  # 1, 1.2, 1.5, 2
    fails, warns = tried(drift)[MULTIPLIERS.index(2.0)]
    said = f"{fails} fail, {warns} suspicious at 2\u00d7 the thresholds"
    expect(page.locator(".told")).to_have_text(said)
    assert page.locator("#threshold").get_attribute("aria-valuetext") == said
    expected = sorted(
        f"{s}={s}" for s in (tolerance(x.changes).status(2.0) for x in drift.sites)
    )
    assert sorted(statuses(page)) == expected
    assert page.evaluate(SHOWN) != before
    page.wait_for_url("**thr=2")
    assert asked == []


def test_a_link_shows_what_the_slider_showed(page: Page, address: str) -> None:
    for by in ("floor", "threshold"):
        opened(page, f"{address}{BOTH}&by={by}")
        press(page, "ArrowRight", 5)
        page.wait_for_url("**thr=3")
        moved, named = page.evaluate(SHOWN), statuses(page)
        assert {name.split("=")[0] for name in named} == {"PASS", "WARN", "FAIL"}
        page.reload()
        opened(page, page.url)
        colours, signs = page.evaluate(SHOWN)
        assert colours == [pytest.approx(row, abs=1e-3) for row in moved[0]]
        assert signs == moved[1]
        assert statuses(page) == named
        assert page.locator("#threshold").input_value() == str(MULTIPLIERS.index(3.0))


def test_another_view_keeps_the_threshold_and_back_restores_it(
    page: Page, address: str
) -> None:
    opened(page, address + BOTH)
    press(page, "ArrowRight", 5)
    page.wait_for_url("**thr=3")
    page.get_by_role("link", name="times the threshold").click()
    page.wait_for_url("**by=threshold**")
    expect(page.locator(".told")).to_contain_text("at 3\u00d7")
    assert "thr=3" in page.url
    page.locator("tbody a").first.click()
    expect(page.locator("h2", has_text="Density")).to_be_visible()
    page.go_back()
    expect(page.locator(".told")).to_contain_text("at 3\u00d7")
    page.get_by_role("button", name="1\u00d7").click()
    expect(page.locator(".told")).to_contain_text("at 1\u00d7")
    page.wait_for_url(lambda url: "thr=" not in url)


def test_only_what_does_not_pass_stays_in_the_table(
    page: Page, address: str, drift: Drift
) -> None:
    opened(page, f"{address}{BOTH}&only=fail")
    rows = page.locator(".only-fail tbody tr:visible")
    expect(rows).to_have_count(sum(site.status != "PASS" for site in drift.sites))
    press(page, "End", 1)
    expect(page.locator(".told")).to_contain_text("at 10\u00d7")
    left = sum(tolerance(site.changes).status(10.0) != "PASS" for site in drift.sites)
    assert 0 < left < len(drift.sites)
    expect(rows).to_have_count(left)

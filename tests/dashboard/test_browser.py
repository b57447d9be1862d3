"""The dashboard and the report in a real browser: what a user sees, clicks and sends."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.report import report
from tests.compare.made_runs import draws, make_run
from tests.dashboard.serving import dashboard

pytestmark = pytest.mark.browser

SAMPLES = Path(__file__).parents[2] / "sample_runs"
MISPLACED = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(
        text => [text.textContent, text.getBoundingClientRect()]);
    const cut = boxes.filter(([_, b]) => b.left < frame.left - 1 || b.top < frame.top - 1
        || b.right > frame.right + 1 || b.bottom > frame.bottom + 1).map(([t]) => 'cut ' + t);
    const over = boxes.flatMap(([t, a], i) => boxes.slice(i + 1).filter(([_, b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top + 3 < b.bottom
        && b.top + 3 < a.bottom).map(([u]) => t + ' over ' + u));
    return [...cut, ...over];
})"""
BOTH = "a=ln-gelu&b=rms-swiglu"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the sample runs beside a broken run, one of odd names and a mixture."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("ln-gelu", "rms-swiglu"):
        shutil.copytree(SAMPLES / name, folder / name)
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    odd = Site(0, "<img src=x onerror=alert(1)>", "gate")
    make_run(folder / "<b>odd<b>", {odd: draws(0)}, model={"class": "<script>alert(1)<"})
    experts = {Site(0, "mlp", "gate", e): draws(e) for e in range(3)}
    make_run(folder / "moe" / "a", experts, inputs="x")
    moved = {s: [x * np.float32(1 + s.expert) for x in v] for s, v in experts.items()}
    make_run(folder / "moe" / "b", moved, inputs="x")
    with dashboard(folder) as (found, _):
        yield found


def cells(page: Page) -> tuple[float, float, float, float]:
    """Return the box of the heatmap's plot area."""
    image = page.locator(".map .heatmaplayer image").first
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    assert box
    return box["x"], box["y"], box["width"], box["height"]


@pytest.fixture(scope="module")
def verdict() -> str:
    return compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu").verdict.sentence


def test_the_runs_are_listed_with_the_broken_one_and_its_reason(
    page: Page, address: str
) -> None:
    page.goto(address)
    expect(page).to_have_title("Runs - ffn-probe")
    expect(page.locator("#page tbody tr")).to_have_count(6)
    expect(page.locator("tr", has_text="broken")).to_contain_text("not a readable manifest")


def test_a_cell_of_the_heatmap_leads_to_its_site_and_back(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?{BOTH}")
    expect(page.locator(".map .heatmaplayer image").first).to_be_visible()
    x, y, width, height = cells(page)
    page.mouse.move(x + width * 0.875, y + height * 2.5 / 7)
    expect(page.locator(".hoverlayer")).to_contain_text("layer 3 gate")
    page.mouse.click(x + width * 0.875, y + height * 2.5 / 7)
    expect(page).to_have_title("layer 3 gate - ffn-probe")
    assert page.url == f"{address}/compare/site?{BOTH}&site=layers.3.ffn%2Fgate"
    page.go_back()
    expect(page.locator("h1")).to_have_text("ln-gelu \u2192 rms-swiglu")
    expect(page.locator(".map .heatmaplayer image").first).to_be_visible()


def test_a_cell_that_one_side_lacks_says_so_and_leads_nowhere(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?{BOTH}")
    expect(page.locator(".map .barlayer .point")).to_have_count(8)
    x, y, width, height = cells(page)
    page.mouse.move(x + width * 0.4, y + height * 3.5 / 7)
    expect(page.locator(".hoverlayer")).to_contain_text("only in rms-swiglu")
    page.mouse.click(x + width * 0.4, y + height * 3.5 / 7)
    page.wait_for_timeout(500)
    assert page.url == f"{address}/compare?{BOTH}"


def test_a_cell_of_a_run_leads_to_its_distribution(page: Page, address: str) -> None:
    page.goto(f"{address}/run?run=rms-swiglu")
    page.get_by_label("Measure").select_option("kurtosis_fisher")
    expect(page.locator("#page b", has_text="excess kurtosis")).to_be_visible()
    x, y, width, height = cells(page)
    page.mouse.click(x + width * 0.1, y + height * 6.5 / 7)
    expect(page.locator("h2", has_text="Layer 0 out")).to_be_visible()
    assert "measure=kurtosis_fisher" in page.url
    expect(page.locator(".js-plotly-plot .scatterlayer .trace")).to_have_count(1)


def test_the_worst_expert_of_a_mixture_leads_to_the_others(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?a=moe%2Fa&b=moe%2Fb")
    page.get_by_role("link", name="layer 0 gate#2").click()
    page.get_by_role("link", name="#0").click()
    expect(page.locator(".banner")).to_contain_text("PASS")


def test_names_from_runs_are_text(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("link", name="<b>odd<b>").click()
    expect(page.locator("h1")).to_have_text("<b>odd<b>")
    expect(page.locator(".map .heatmaplayer image").first).to_be_visible()
    assert page.locator("main img, main script, main h1 b").count() == 0


def test_no_chart_offers_to_upload_itself(page: Page, address: str) -> None:
    for url in (f"/compare?{BOTH}", f"/compare/site?{BOTH}&site=layers.0.ffn%2Fgate"):
        page.goto(address + url)
        page.locator(".js-plotly-plot .nsewdrag").first.hover()
        html = page.locator("main").inner_html().lower()
        assert "share chart" not in html
        assert "cloud" not in html
        assert page.locator(".modebar-btn").count() == 0


def test_what_is_not_there_is_said_and_leads_back(page: Page, address: str) -> None:
    for url, said in (("/nowhere", "No such page"), ("/run?run=broken", "not a readable")):
        page.goto(address + url)
        expect(page.locator("main")).to_contain_text(said)
        page.get_by_role("link", name="To the runs").click()
        expect(page.locator("h1")).to_have_text("Runs")


def test_an_empty_folder_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    with dashboard(tmp_path) as (found, _):
        page = browser.new_page()
        page.goto(found)
        expect(page.locator("h1")).to_have_text("No runs yet")
        page.close()


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark"), (2560, "light")]
)
def test_pages_fit_their_window_in_both_schemes(
    browser: Browser, address: str, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    for url in ("/", f"/compare?{BOTH}", f"/compare/site?{BOTH}&site=layers.1.ffn%2Fout",
                "/run?run=ln-gelu"):  # fmt: skip
        page.goto(address + url)
        expect(page.locator("h1")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_opens_offline_and_fits_its_window(
    browser: Browser, tmp_path: Path, width: int, verdict: str
) -> None:
    drift = compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")
    path = report(drift, to=tmp_path / "drift.html")
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    expect(page.locator(".banner")).to_contain_text(verdict)
    expect(page.locator("figure svg").first).to_be_visible()
    assert page.locator("figure svg").count() >= 8
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert asked == [path.as_uri()]
    assert said == []
    context.close()


def test_every_text_of_a_picture_is_inside_of_it(browser: Browser, tmp_path: Path) -> None:
    """No label of the report's pictures is cut, or runs over another of its axis."""
    drift = compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")
    path = report(drift, to=tmp_path / "drift.html")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(path.as_uri())
    assert page.evaluate(MISPLACED) == []
    page.close()

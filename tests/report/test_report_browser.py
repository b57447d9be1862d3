"""Reports in a real browser: on screen, on paper, as PDF and PNG, with plotly, without."""

import json
import re
import struct
from pathlib import Path

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Browser

from ffn_probe.compare import Drift, compare
from ffn_probe.errors import FfnProbeError
from ffn_probe.report import browser as pages
from ffn_probe.report import report
from ffn_probe.report.interactive import _data
from tests.report.browsing import MISPLACED, WIDER
from tests.report.made_drifts import deep_drift, evil_drift, evil_run

pytestmark = pytest.mark.browser
SAMPLES = Path(__file__).parents[2] / "sample_runs"


@pytest.fixture(scope="module")
def drift() -> Drift:
    return compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")


@pytest.fixture(scope="module")
def files(drift: Drift, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    told = {
        "drift": drift,
        "run": SAMPLES / "rms-swiglu",
        "several": [drift, SAMPLES / "planted"],
        "deep": deep_drift(folder / "deep", 80),
        "evil": [evil_drift(folder / "evil"), evil_run(folder / "run")],
    }
    return {name: report(one, to=folder / f"{name}.html") for name, one in told.items()}


@pytest.mark.parametrize("name", ["drift", "run", "several", "deep", "evil"])
def test_a_page_asks_for_nothing_logs_nothing_and_fits_its_window(
    name: str, files: dict[str, Path], browser: Browser
) -> None:
    page, seen = browser.new_page(viewport={"width": 1180, "height": 900}), []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.goto(files[name].as_uri())
    assert seen == [files[name].as_uri()]
    if name != "evil":
        assert page.evaluate(MISPLACED) == []
    for width in (1180, 700, 380):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(WIDER) <= 0
    page.close()


def test_a_link_opens_the_part_it_leads_to(files: dict[str, Path], browser: Browser) -> None:
    page = browser.new_page(java_script_enabled=True)
    page.goto(files["several"].as_uri())
    part = page.locator("details.part").nth(1)
    part.evaluate("part => { part.open = false }")
    page.locator('a[href="#part-2"]').click()
    assert part.evaluate("part => part.open")
    page.close()


def test_paper_opens_what_is_folded(files: dict[str, Path], browser: Browser) -> None:
    page = browser.new_page()
    page.goto(files["drift"].as_uri())
    cell = page.get_by_role("cell", name="judgement: 1 point")
    assert not cell.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert cell.is_visible()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    page.close()


# ---- with plotly ------------------------------------------------------------------------


def test_charts_answer_to_the_pointer_offline_and_lead_nowhere(
    drift: Drift, browser: Browser, tmp_path: Path
) -> None:
    path = report(drift, to=tmp_path / "x.html", interactive=True)
    assert path.stat().st_size < 7_000_000
    page, seen = browser.new_page(viewport={"width": 1180, "height": 900}), []
    page.on("request", lambda r: seen.append(r.url) if r.url[:5] != "data:" else None)
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(path.as_uri())
    page.locator("#plot-1 .heatmaplayer image").wait_for()
    assert page.locator(".static").first.is_hidden()
    assert "resid" in page.locator("#plot-1 .ytick text").all_text_contents()
    box = page.locator("#plot-1 .heatmaplayer image").bounding_box()
    assert box
    page.mouse.move(box["x"] + 20, box["y"] + 8)
    hover = page.locator("#plot-1 .hoverlayer text").first
    hover.wait_for()
    assert "layer 0 resid" in (hover.text_content() or "")
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
    assert buttons
    assert not [b for b in buttons if b and re.search("share|cloud|plotly", b, re.I)]
    page.locator("#plot-9").scroll_into_view_if_needed()
    page.locator("#plot-9 .scatterlayer path").first.wait_for()
    assert seen == [path.as_uri()]
    page.close()


def test_without_scripts_and_on_paper_the_plain_charts_stay(
    drift: Drift, browser: Browser, tmp_path: Path
) -> None:
    path = report(drift, to=tmp_path / "x.html", interactive=True)
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert page.locator(".static svg").first.is_visible()
    page.close()
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("#plot-1 .heatmaplayer image").wait_for()
    page.emulate_media(media="print")
    assert page.locator(".static svg").first.is_visible()
    assert page.locator("#plot-1").is_hidden()
    page.close()


def test_a_policy_allows_the_scripts_of_the_page_alone(
    browser: Browser, tmp_path: Path
) -> None:
    path = report(evil_drift(tmp_path), to=tmp_path / "x.html", interactive=True)
    text = path.read_text()
    assert re.findall(r"script-src ('sha256-[\w+/=]+' 'sha256-[\w+/=]+')\">", text)
    assert "unsafe-eval" not in text.partition("<body>")[0]
    page, seen = browser.new_page(), []
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.goto(path.as_uri())
    page.locator(".static svg").first.scroll_into_view_if_needed()
    page.locator("#plot-1 .heatmaplayer image").wait_for()
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'document.title = "run"';
        document.body.append(script);
    }""")
    assert page.title() != "run"
    assert seen == []
    page.close()


def test_no_figure_ends_the_element_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = go.Figure()
    monkeypatch.setattr(go.Figure, "to_json", lambda _: '["</script><script>1"]')
    held = _data("plot-1", figure)
    assert held.count("<") == 2
    assert json.loads(held.partition(">")[2].removesuffix("</script>")) == [
        "</script><script>1"
    ]


# ---- PDF and PNG ------------------------------------------------------------------------


def test_a_pdf_holds_the_report_and_is_the_same_twice(tmp_path: Path) -> None:
    runs = [SAMPLES / "ln-gelu", SAMPLES / "rms-gelu"]
    one = report(runs, to=tmp_path / "a.pdf").read_bytes()
    assert one == report(runs, to=tmp_path / "b.pdf").read_bytes()
    assert one.startswith(b"%PDF-")
    assert b"/Title (FFN drift: ln-gelu to rms-gelu)" in one
    assert len(re.findall(rb"/Type\s*/Page\b", one)) >= 3
    assert len(one) < 2_000_000
    dates = set(re.findall(rb"Date \(D:(\d{8})", one))
    assert len(dates) == 1


def test_tags_of_a_pdf_are_numbered_from_one() -> None:
    made = b"/ID (node00000328) /ID (node00000330) /P (node00000328)"
    assert pages._renumbered(made) == b"/ID (node00000001) /ID (node00000002) /P (node00000001)"


def test_a_png_is_the_main_chart_at_twice_its_size(drift: Drift, tmp_path: Path) -> None:
    svg = report(drift, to=tmp_path / "x.svg").read_text()
    data = report(drift, to=tmp_path / "x.png").read_bytes()
    width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (2 * width, 2 * height)


def test_a_browser_that_is_named_but_not_there_is_an_error(
    drift: Drift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pages.VARIABLE, "/nowhere/chromium")
    with pytest.raises(FfnProbeError, match="FFN_PROBE_CHROMIUM names /nowhere/chromium"):
        report(drift, to=tmp_path / "x.pdf")
    monkeypatch.delenv(pages.VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FfnProbeError, match=r"none is in PATH .*apt install chromium.*\.html"):
        report(drift, to=tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_browser_that_makes_nothing_is_an_error_with_its_words(
    drift: Drift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho 'no luck today' >&2\n")
    fake.chmod(0o755)
    monkeypatch.setenv(pages.VARIABLE, str(fake))
    with pytest.raises(FfnProbeError, match="made nothing: no luck today"):
        report(drift, to=tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()

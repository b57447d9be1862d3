"""Make the README's pictures from the sample runs: `python docs/pictures.py`.

Serves the dashboard, writes reports, and takes a picture of each in the system's Chromium.
"""

import logging
import shutil
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

from dashboard.app import make_app
from ffn_probe.compare import compare
from ffn_probe.report import report
from ffn_probe.runs import Run

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "sample_runs"
A, B = "ln-gelu", "rms-swiglu"
PAIRED = "swap-naive"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VIEWS = {
    "dashboard": (f"/compare?a={A}&b={B}", 1200, 1130),
    "gate": (f"/gate?a=ln-swiglu&b={B}", 1200, 900),
    "training": ("/training?a=train-healthy&b=train-hot", 1200, 900),
    "explain": ("/explain?run=planted", 1200, 900),
    "swaps": ("/swaps", 1200, 900),
}
"""Name of the picture -> page, width and height of the window."""


def main() -> None:
    """Write the pictures of the dashboard, docs/report.png and docs/why.png."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, make_app(SAMPLES).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        page = browser.new_page()
        for name, (view, width, height) in VIEWS.items():
            page.set_viewport_size({"width": width, "height": height})
            page.goto(f"http://127.0.0.1:{server.port}{view}")
            page.wait_for_selector("#page .js-plotly-plot .main-svg", timeout=120_000)
            _take(page, f"{name}.png")
        path = report(compare(SAMPLES / A, SAMPLES / B), to=Path(folder) / "drift.html")
        page.set_viewport_size({"width": 1120, "height": 900})
        page.goto(path.as_uri())
        box = page.locator("figure svg").first.bounding_box()
        _take(page, "report.png", height=box["y"] + box["height"] + 12 if box else 900)
        why = report(Run.open(SAMPLES / PAIRED), to=Path(folder) / "why.html")
        page.goto(why.as_uri())
        box = page.get_by_role("heading", name="Stage by stage").bounding_box()
        _take(page, "why.png", height=box["y"] - 12 if box else 900)
        browser.close()
    server.shutdown()


def _take(page: Page, name: str, height: float | None = None) -> None:
    """Take a picture of the window, or of the page down to a height."""
    page.wait_for_timeout(2000)  # until the last chart is drawn
    width = page.evaluate("document.documentElement.clientWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height} if height else None
    page.screenshot(path=HERE / name, full_page=height is not None, clip=clip)  # type: ignore[arg-type]
    print(f"{HERE / name}: {(HERE / name).stat().st_size:,} bytes")  # noqa: T201


if __name__ == "__main__":
    main()

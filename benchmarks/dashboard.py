"""How long the dashboard takes on runs of a large model, in a real browser.

Makes two synthetic runs (80 layers, 7 roles, up to 28,672 channels, 1,000 windows, 16 folds),
serves them, and measures in headless Chromium: the start of the server, the first paint, and
each interaction, the first time (cold) and again (warm), with the bytes that were sent and the
memory of the server. Run: python -m benchmarks.dashboard [--small] [--folder KEPT]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, Response, sync_playwright

from benchmarks.large_runs import SMALL, Shape, make, planted

_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
_WATCH = """
window.sent = 0; window.made = 0; window.changed = 0; window.made_title = '';
const fetched = window.fetch;
window.fetch = async (...given) => {
    const ours = String(given[0].url || given[0]).includes('_dash-update-component');
    if (!ours) return fetched(...given);
    window.sent += 1;
    try {
        const answer = await fetched(...given);
        const said = answer.status === 200 ? (await answer.clone().json()).response : {};
        const title = (said && said.title || {}).data || '';
        if (title && !title.startsWith('One moment')) {
            window.made += 1; window.made_title = title; window.changed = 0;
        }
        return answer;
    } finally { window.sent -= 1; }
};
document.addEventListener('DOMContentLoaded', () => new MutationObserver(
    () => { window.changed += 1; }).observe(document.body, {childList: true, subtree: true}));
"""
"""What is on its way, how many pages came (those that say "One moment" aside), what changed."""
_GO = """
async url => {
    const began = performance.now(), made = window.made;
    history.pushState({}, '', url);
    window.dispatchEvent(new PopStateEvent('popstate', {state: {}}));
    const drawn = () => [...document.querySelectorAll('.js-plotly-plot')].every(
        plot => plot.querySelector('.main-svg'));
    let still = 0;
    while (still < 2 && performance.now() - began < 300000) {
        await new Promise(done => requestAnimationFrame(done));
        const ready = window.made > made && window.sent === 0 && window.changed > 0 && drawn()
            && document.title === window.made_title && !document.querySelector('.working');
        still = ready ? still + 1 : 0;
    }
    return performance.now() - began;
}
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """One interaction: seconds the first time and again, of these the server's, bytes."""

    name: str
    cold: float
    warm: float
    server: float  # seconds of processor time of the server, warm
    browser: float  # and of all processes of the browser
    kilobytes: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a shape that takes seconds")
    parser.add_argument("--folder", type=Path, help="where the runs are, or are made and kept")
    given = parser.parse_args()
    shape = SMALL if given.small else Shape()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "runs"
        began = time.perf_counter()
        if not (folder / "b" / "trends").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, shape)
        made = time.perf_counter() - began
        print(
            f"{shape.layers} layers x 7 roles x {shape.d_ff:,} channels, {shape.windows:,} "
            f"windows, 16 folds: two runs of {_megabytes(folder / 'a'):,.0f} MB, made in "
            f"{made:.0f} s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        measure(folder, shape)


def measure(folder: Path, shape: Shape) -> list[Timing]:
    """Print and return what each interaction takes."""
    with _served(folder) as (address, pid, seconds), _browser() as page:
        print(f"{'start of the server':42} {seconds:8.2f} s")
        first = _first_paint(page, address)
        print(f"{'first paint of the table of runs':42} {first:8.2f} s")
        print(
            f"{'interaction':42} {'cold s':>8} {'warm s':>8} {'server s':>8} "
            f"{'browser s':>9} {'sent kB':>8}"
        )
        found = []
        for name, url in interactions(shape).items():
            one = _timed(page, name, url, pid)
            found.append(one)
            print(f"{name:42} {one.cold:8.2f} {one.warm:8.2f} {one.server:8.2f} "
                  f"{one.browser:9.2f} {one.kilobytes:8.0f}", flush=True)  # fmt: skip
        peak, now = (_memory(pid, key) for key in ("VmHWM", "VmRSS"))
        print(f"memory of the server: {now:,.0f} MB, at most {peak:,.0f} MB")
    return found


def interactions(shape: Shape) -> Mapping[str, str]:
    """Return what a user does -> the address that it leads to, in the order of a visit."""
    layer = planted(shape)["scale"][0]
    site, after = (f"model.layers.{n}.mlp/hidden" for n in (layer, layer + 1))
    both = "a=a&b=b"
    return {
        "open a run": "/run?run=a",
        "another measure (median |x|)": "/run?run=a&measure=p50_abs",
        "another measure (outlier channels)": "/run?run=a&measure=outlier_channels",
        "another measure (int8 SQNR)": "/run?run=a&measure=sqnr_int8_tensor",
        "compare": f"/compare?{both}",
        "cell -> site": f"/compare/site?{both}&site={site}",
        "next layer": f"/compare/site?{both}&site={after}",
        "channels": f"/channels?{both}",
        "channels, another role": f"/channels?{both}&role=hidden",
        "gate x value": f"/gate?{both}",
        "tokens": f"/tokens?{both}",
        "quantization": f"/quantization?{both}",
        "training": f"/training?{both}",
        "training, another site": f"/training?{both}&site={site}",
        "swap lab": "/swaps",
        "back to the runs": "/?a=a&b=b",
    }


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Serve a folder; give the address, the process and the seconds until it answered."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dashboard", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://[^/\s]+", line)
        if found is None:
            raise SystemExit(f"the dashboard did not start: {line}")
        yield found[0], process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def _browser() -> Iterator[Page]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("this needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(330_000)
        page.add_init_script(_WATCH)
        yield page
        browser.close()


def _first_paint(page: Page, address: str) -> float:
    """Return the seconds until a browser that knows nothing shows the table of runs."""
    began = time.perf_counter()
    page.goto(address)
    page.locator("#page h1").wait_for()
    page.locator("tbody tr").first.wait_for()
    return time.perf_counter() - began


def _timed(page: Page, name: str, url: str, pid: int) -> Timing:
    sizes: list[int] = []

    def heard(answer: Response) -> None:
        sizes.append(int(answer.headers.get("content-length", 0)))

    cold = page.evaluate(_GO, url) / 1000
    page.evaluate(_GO, "/methods")
    page.on("response", heard)
    before, browsed = _seconds(pid), _browsed(pid)
    warm = page.evaluate(_GO, url) / 1000
    server, browser = _seconds(pid) - before, _browsed(pid) - browsed
    page.remove_listener("response", heard)
    return Timing(name, cold, warm, server, browser, sum(sizes) / 1000)


def _browsed(server: int) -> float:
    """Return the processor time of all our processes but the server."""
    parents = {
        int(path.name): int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
        for path in Path("/proc").glob("[0-9]*")
        if os.access(path / "stat", os.R_OK)
    }
    ours, found = {os.getpid()}, set[int]()
    while ours:
        found |= ours
        ours = {child for child, parent in parents.items() if parent in ours} - found
    return sum(_seconds(pid) for pid in found - {server, os.getpid()} if pid in parents)


def _seconds(pid: int) -> float:
    """Return the processor time of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int, key: str) -> float:
    """Return a number of /proc/PID/status in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{key}:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else float("nan")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    main()

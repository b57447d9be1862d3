"""A browser for the tests of reports, and what to ask of a page in it."""

import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip

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
"""The labels of pictures that are cut or lie over another."""

WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""By how many pixels a page is wider than its window."""


def launched() -> Iterator[Browser]:
    """Yield the system's Chromium."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, "these tests need Chromium (bash .ci/chromium), or leave out -m browser"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield found
        found.close()

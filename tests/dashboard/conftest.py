"""A browser, and a page in it that fails its test for what it logs or asks of elsewhere."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


expect.set_options(timeout=60_000)  # a busy machine draws late, and a test is no stopwatch


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, "these tests need Chromium (bash .ci/chromium), or leave out -m browser"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page of the dashboard at the module's `address`."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    made, wrong = context.new_page(), []
    made.set_default_timeout(60_000)
    made.on("pageerror", lambda error: wrong.append(f"error {error}"))
    made.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
    made.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    made.on("request", lambda r: wrong.append(r.url) if not ours(r.url, address) else None)
    yield made
    context.close()
    assert not wrong


def ours(url: str, address: str) -> bool:
    return url.startswith((address + "/", "data:", "blob:" + address))

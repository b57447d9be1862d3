"""The report of a paired run in a real browser: no label is cut or lies over another."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from ffn_probe.report.html import to_html
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_paper import paired_paper
from tests.report.browsing import MISPLACED, WIDER
from tests.report.made_attributions import STORIES, gates

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("name", list(STORIES))
def test_no_label_is_cut_or_lies_over_another(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    told = STORIES[name]()
    path = tmp_path / "x.html"
    path.write_text(to_html(paired_paper(Story(told, gates(told)), to="x.html")))
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate(MISPLACED) == []
    assert asked == [path.as_uri()]
    for width in (1180, 700, 380):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(WIDER) <= 0
    page.close()

"""A report as a whole: the same bytes for the same input, small, and safe from its names."""

import csv
import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from ffn_probe.compare import Drift
from ffn_probe.report import report, report_text
from ffn_probe.report.markdown import block, escape, prose
from ffn_probe.report.svg import standalone
from ffn_probe.report.tables import safe_cells
from ffn_probe.report.words import legible
from ffn_probe.runs import Run
from tests.report.made_drifts import EVIL, deep_drift, evil_drift, evil_run
from tests.report.reading import Page

SAMPLES = Path(__file__).parents[2] / "sample_runs"
MAKE = """
import sys
from ffn_probe.report import report
report(sys.argv[1:-1], to=sys.argv[-1])
report(sys.argv[1], to=sys.argv[-1] + "/one.html", interactive=True)
"""
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


# ---- the same bytes ---------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    runs = [str(SAMPLES / name) for name in ("ln-gelu", "rms-swiglu", "swap-naive")]
    made = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        line = [sys.executable, "-c", MAKE, *runs, str(tmp_path / seed / "out")]
        subprocess.run(line, cwd=tmp_path / seed, env=environment, check=True, timeout=120)
        made.append({
            str(path.relative_to(tmp_path / seed)): path.read_bytes()
            for path in sorted((tmp_path / seed).rglob("*")) if path.is_file()
        })  # fmt: skip
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
    assert len(made[0]) > 30


# ---- size -------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "most"), [(32, 1_500_000), (80, 1_500_000)])
def test_a_report_of_many_layers_is_small(layers: int, most: int, tmp_path: Path) -> None:
    drift = deep_drift(tmp_path, layers)
    text = report_text(drift, ".html")
    assert 100_000 < len(text.encode()) < most
    assert text.count("<title>FAIL layer ") == 7 * layers
    assert len(report_text(drift, ".md")) < 65_536  # what a comment on GitHub holds


# ---- names ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> Drift:
    return evil_drift(tmp_path_factory.mktemp("evil"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return evil_run(tmp_path_factory.mktemp("evil-run"))


@pytest.fixture(scope="module", params=["drift", "run"])
def single(request: pytest.FixtureRequest, drift: Drift, run: Run) -> object:
    return {"drift": drift, "run": run}[request.param]


@pytest.fixture(scope="module", params=["drift", "run", "both"])
def told(request: pytest.FixtureRequest, drift: Drift, run: Run) -> object:
    return {"drift": drift, "run": run, "both": [drift, run]}[request.param]


TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "span", "div", "b",
    "code", "pre", "svg", "defs", "pattern", "rect", "text", "line", "path", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "br", "details", "summary",
    "nav", "a",
}  # fmt: skip


def test_names_are_text_in_html(told: object) -> None:
    text = report_text(told, ".html")  # type: ignore[arg-type]
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= TAGS
    named = {name for _, attrs in page.tags for name in attrs}
    assert not {name for name in named if name.startswith(("on", "src"))}
    links = {attrs["href"] for tag, attrs in page.tags if "href" in attrs}
    assert links <= {"#part-1", "#part-2"}
    assert not UNSEEN.search(text)
    assert "<script>alert(1)<\u2215script>" in " ".join(page.texts)
    assert "url(" not in text.replace("url(#none)", "")


def test_names_are_text_in_markdown(told: object) -> None:
    text = report_text(told, ".md")  # type: ignore[arg-type]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    html = [t.content for t in (*tokens, *inline) if t.type.startswith("html")]
    tags = set(re.findall(r"<[^>]*>", " ".join(html)))
    assert tags <= {"<details>", "</details>", "<summary>", "</summary>", "<code>", "</code>",
                    "<sub>", "</sub>", "<!-- -->"}  # fmt: skip
    assert not {t.type for t in inline} & {"link_open", "image", "code_inline", "em_open"}
    assert {t.tag for t in tokens if t.type == "heading_open"} <= {"h2", "h3", "h4"}
    assert not re.search(r"@(?!<!-- -->)", re.sub(r"```sh\n.*?\n```", "", text, flags=re.S))
    assert not UNSEEN.search(text)
    assert "alert(1)" in text


def test_every_table_of_markdown_is_a_table_to_its_last_row(told: object) -> None:
    text = report_text(told, ".md")  # type: ignore[arg-type]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    rows = sum(token.type == "tr_open" for token in tokens)
    lines = re.findall(r"^\| .*\|$", text, re.M)
    rules = [line for line in lines if not set(line) - set("| -:")]
    assert rows == len(lines) - sum("---" in line or "--:" in line for line in rules)
    assert rows > 30


def test_a_mention_or_a_link_in_a_name_reaches_nobody() -> None:
    assert escape("@team") == "@<!-- -->team"
    assert escape("http://e.vil www.e.vil") == "http\\://e.vil www\\.e.vil"
    assert prose("see `a@b` now") == "see <code>a@<!-- -->b</code> now"
    assert block("a ```` b") == "`````sh\na ```` b\n`````"


@pytest.mark.parametrize("word", EVIL)
def test_a_name_is_one_line_that_one_sees(word: str) -> None:
    assert legible(word).isprintable()
    assert escape(word).isprintable()
    assert len(escape(word)) < 600


def test_no_cell_of_a_table_is_a_formula(single: object, tmp_path: Path) -> None:
    folder = report(single, to=tmp_path / "out")  # type: ignore[arg-type]
    files = sorted(folder.glob("*.csv"))
    assert len(files) >= 2
    for path in files:
        rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
        cells = [cell for row in rows for cell in row]
        assert not [c for c in cells if c.startswith(("=", "@", "\t", "\r"))]
        assert not [c for c in cells if c.startswith(("+", "-")) and not _is_number(c)]
        assert len(pd.read_parquet(path.with_suffix(".parquet"))) == len(rows) - 1


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("cell", ["=1", " =1", "+a", "-a", "@a", "\t=1", "\r=1", "\n=1"])
def test_what_a_spreadsheet_takes_for_a_formula_gets_a_quote(cell: str) -> None:
    frame = pd.DataFrame({"a": [cell, "b"], "n": [-1.0, 2.0]})
    shown = cell.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n")
    assert safe_cells(frame)["a"].tolist() == ["'" + shown, "b"]
    assert safe_cells(frame)["n"].tolist() == [-1.0, 2.0]


def test_charts_are_xml_of_their_own_with_their_colours(single: object, tmp_path: Path) -> None:
    folder = report(single, to=tmp_path / "out")  # type: ignore[arg-type]
    charts = sorted((folder / "charts").iterdir())
    assert len(charts) > 5
    for path in charts:
        assert re.fullmatch(r"[a-z0-9_-]+\.svg", path.name)
        root = ET.fromstring(path.read_bytes())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        names = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert names <= {"svg", "style", "rect", "text", "title", "path", "line", "defs",
                         "pattern", "g", "circle"}  # fmt: skip
        assert "prefers-color-scheme: dark" in path.read_text()


def test_what_xml_forbids_does_not_reach_a_chart() -> None:
    broken = '<svg viewBox="0 0 1 1"><text>a\x00\x1b\ufffe\ud800b</text></svg>'
    assert "".join(ET.fromstring(standalone(broken).encode()).itertext()).endswith(
        "a\ufffd\ufffd\ufffd\ufffdb"
    )

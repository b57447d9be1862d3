"""The drift report: all sections, one offline file, true numbers, untrusted names as text."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import Drift, compare
from ffn_probe.errors import FfnProbeError
from ffn_probe.report import report
from ffn_probe.report.report import safe_cells
from ffn_probe.report.words import MINUS, number
from tests.compare.made_runs import draws, make_run
from tests.report.reading import Page, read

SAMPLES = Path(__file__).parents[2] / "sample_runs"
EVIL = "<script>alert(1)</script>|*x*`[a](http://e.vil)"


@pytest.fixture(scope="module")
def drift() -> Drift:
    return compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")


@pytest.fixture(scope="module")
def text(drift: Drift, tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(drift, to=tmp_path_factory.mktemp("report") / "drift.html").read_text()


@pytest.fixture(scope="module")
def markdown(drift: Drift, tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(drift, to=tmp_path_factory.mktemp("report") / "drift.md").read_text()


@pytest.fixture
def evil(tmp_path: Path) -> Drift:
    """Names and settings that are markup, wherever a run may carry text."""
    block = EVIL.replace("/", "\u2215")
    sites = [Site(0, block, "gate"), Site(1, "<b>y</b>|`", '<i>r</i>" onload="alert(1)')]
    fields = {"model": {"class": EVIL, "name": EVIL}, "tags": {EVIL: EVIL}, "warnings": (EVIL,)}
    made = []
    for folder, factor in (("<u>a</u>".replace("/", "\u2215"), 1), ("<u>b|`*", 2)):
        values = {s: [x * factor for x in draws(3)] for s in sites}
        values[Site(2, f"{folder}|`<em>", "gate")] = draws(4)
        values[Site(0, block, f"<s>only{factor}")] = draws(5)
        extra = fields | {"device": f"<d>{factor}"}
        made.append(make_run(tmp_path / folder, values, inputs="x", **extra))
    return compare(*made)


# ---- HTML -------------------------------------------------------------------------------


def test_the_page_has_every_section(text: str, drift: Drift) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "By aspect", "Layers and roles", "Sites", "Distributions of the worst sites",
        "Settings that differ", "On one side only", "Definitions", "Versions", "Make it again",
    ]  # fmt: skip
    page = " ".join(Page(text).texts)
    assert drift.verdict.sentence in page
    for note in drift.validity:
        assert note.text.split("`")[0] in page
    assert "torch 2." in page
    assert all(site.name in page for site in drift.only_b)


def test_the_page_needs_no_script_and_asks_for_nothing(text: str) -> None:
    page = Page(text)
    used = {tag for tag, _ in page.tags}
    assert not used & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [
        a for _, attrs in page.tags for a in attrs if a.startswith(("on", "src", "href"))
    ]
    assert "@import" not in text
    assert not re.search(r"url\((?!#none\))", text)
    policy = next(a["content"] for a in page.of("meta") if "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_the_page_is_for_light_dark_and_paper(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "width=device-width" in text


def test_numbers_of_the_page_are_those_of_the_table(text: str, drift: Drift) -> None:
    table = drift.table().set_index(["layer", "role", "statistic"])
    rows = [row for row in Page(text).rows if len(row) == 12 and row[1].isdigit()]
    assert len(rows) == sum(site.status != "PASS" for site in drift.sites)
    for status, layer, role, aspect, statistic, *shown in rows:
        true = table.loc[int(layer), role, statistic]
        assert status.endswith(true["status"])
        assert (aspect, shown[1], int(shown[6])) == (
            true["aspect"],
            true["unit"],
            true["folds"],
        )
        assert read(shown[0]) == pytest.approx(true["value"], rel=0.006)
        assert read(shown[2]) == pytest.approx(true["threshold"], rel=0.006)
        assert read(shown[3]) == pytest.approx(true["floor"], rel=0.006)
        assert read(shown[4]) == pytest.approx(true["times_floor"], rel=0.006)


def test_the_heatmap_has_a_cell_a_site_and_names_what_is_missing(
    text: str, drift: Drift
) -> None:
    titles = re.findall(r"<title>(.*?)</title>", text)[1:]
    assert len(titles) == 4 * 7
    assert sum("only in rms-swiglu" in title for title in titles) == len(drift.only_b) == 8
    assert text.count('fill="url(#none)"') == 8
    failed = sum(site.status == "FAIL" for site in drift.sites)
    assert sum(title.startswith("FAIL") for title in titles) == failed > 0


def test_the_worst_sites_have_both_distributions_on_one_axis(text: str) -> None:
    _, *figures = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        assert len(re.findall(r'<path d="M', figure)) == 6
        for words in ("density", "share at or below", "shift, reference sigmas", "quantile"):
            assert f">{words}<" in figure
        assert "unit of the tensor" in figure


def test_the_thresholds_are_those_that_were_used(tmp_path: Path) -> None:
    chosen = compare(
        SAMPLES / "ln-gelu", SAMPLES / "rms-gelu", thresholds={"ks": 0.77, "psi": 0.66}
    )
    text = report(chosen, to=tmp_path / "x.html").read_text()
    rows = {row[0]: list(map(str.strip, row)) for row in Page(text).rows if len(row) == 6}
    assert rows["ks"][4:] == ["0.77", "given by the caller"]
    assert rows["psi"][4] == "0.66"


def test_a_comparison_of_a_run_with_itself_passes_in_every_format(tmp_path: Path) -> None:
    same = compare(SAMPLES / "ln-gelu", SAMPLES / "ln-gelu")
    folder = report(same, to=tmp_path / "out")
    assert "Every site passed." in (folder / "drift.html").read_text()
    assert "Every site passed." in (folder / "drift.md").read_text()
    assert "Distributions of the worst" not in (folder / "drift.html").read_text()


def test_values_that_are_not_finite_are_counted_beside_the_picture(tmp_path: Path) -> None:
    bad = draws(0)
    bad[3][0, 0], bad[5][1, 1] = np.nan, np.inf
    site = Site(0, "mlp", "gate")
    a = make_run(tmp_path / "a", {site: draws(0)}, inputs="x")
    b = make_run(tmp_path / "b", {site: bad}, inputs="x")
    text = report(compare(a, b), to=tmp_path / "x.html").read_text()
    assert "not finite, so not drawn: 0 and 2 values" in text


# ---- names are text ---------------------------------------------------------------------


def test_names_from_a_run_are_text_in_html(evil: Drift, tmp_path: Path) -> None:
    text = report(evil, to=tmp_path / "x.html").read_text()
    page = Page(text)
    known = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span", "div",
             "b", "em", "code", "svg", "defs", "pattern", "rect", "text", "line", "path",
             "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption",
             "br", "details", "summary", "pre"}  # fmt: skip
    assert {tag for tag, _ in page.tags} <= known
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert "<script" not in text
    assert "<u>" not in text
    assert evil.only_a
    assert evil.only_b
    assert "<script>alert(1)</script>|*x*`[a](http://e.vil)" in " ".join(page.texts)


def test_names_from_a_run_are_text_in_markdown(evil: Drift, tmp_path: Path) -> None:
    text = re.sub(r"```sh\n.*\n```", "", report(evil, to=tmp_path / "x.md").read_text())
    assert not re.findall(r"<(?!/?(details|summary|code|sub)>|!-- -->)", text)
    assert not re.search(r"(?<!\\)\[a", text)
    assert not re.search(r"(?<!\\)`", text)
    assert "\\*x\\*" in text
    assert_tables_are_rectangular(text)


def test_a_lone_surrogate_in_a_setting_does_not_stop_the_report(tmp_path: Path) -> None:
    site = {Site(0, "mlp", "gate"): draws(0)}
    a = make_run(tmp_path / "a", site, tags={"x": "\ud800"})
    b = make_run(tmp_path / "b", site, tags={"x": "y"})
    folder = report(compare(a, b), to=tmp_path / "out")
    assert "tags.x" in (folder / "drift.html").read_text()


def test_no_cell_is_a_formula_to_a_spreadsheet() -> None:
    frame = pd.DataFrame({"block": ["=1+1", "@x", "+a", "-b", "plain"], "value": [-1.0] * 5})
    safe = safe_cells(frame)
    assert list(safe["block"]) == ["'=1+1", "'@x", "'+a", "'-b", "plain"]
    assert list(safe["value"]) == [-1.0] * 5


# ---- the other formats ------------------------------------------------------------------


def assert_tables_are_rectangular(text: str) -> None:
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(found) >= 4
    for table in found:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
        assert set(table.splitlines()[1]) <= set("| -:")


def test_markdown_has_the_verdict_and_tables(markdown: str, drift: Drift) -> None:
    clause = drift.verdict.sentence.split(";")[0]
    assert markdown.startswith(f"## FFN drift report: \u274c FAIL\n\n{clause}")
    assert_tables_are_rectangular(markdown)
    assert "block.activation" in markdown.replace("\\", "")
    for side in (drift.a.name, drift.b.name):
        assert side in markdown


def test_json_says_what_the_drift_says(drift: Drift, tmp_path: Path) -> None:
    data = json.loads(report(drift, to=tmp_path / "x.json").read_text())
    assert data["verdict"]["status"] == drift.verdict.status
    told = json.loads(drift.to_json())
    assert {key: data[key] for key in told} == told
    changes = [change for site in data["sites"] for change in site["changes"]]
    assert [c["value"] for c in changes] == pytest.approx(drift.table()["value"], nan_ok=True)


def test_a_folder_holds_every_format_and_the_table(drift: Drift, tmp_path: Path) -> None:
    folder = report(drift, to=tmp_path / "deep" / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "charts", "drift.csv", "drift.html", "drift.json", "drift.md", "drift.parquet",
        "one_sided.csv", "one_sided.parquet", "settings.csv", "settings.parquet",
    ]  # fmt: skip
    table = drift.table()
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "drift.parquet"), table)
    rows = list(csv.DictReader(io.StringIO((folder / "drift.csv").read_text())))
    assert len(rows) == len(table)
    assert [float(row["value"] or "nan") for row in rows] == pytest.approx(
        table["value"], nan_ok=True
    )
    assert [row["provenance"] for row in rows] == list(table["provenance"])


# ---- the disk ---------------------------------------------------------------------------


def test_a_report_replaces_an_older_one_and_keeps_its_mode(
    drift: Drift, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    path.chmod(0o600)
    report(drift, to=path)
    assert json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_report_that_cannot_be_written_leaves_the_older_one(
    drift: Drift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.md"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FfnProbeError, match=r"cannot write .*x\.md: No space left"):
        report(drift, to=path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.md"]


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("x.doc", r"no report format '\.doc'.*possible: \.html, \.md, \.json, .*or a folder"),
        ("missing/x.html", "cannot write .*: no folder .*missing"),
        ("file/x.html", "cannot write .*: no folder .*file"),
        ("file", "cannot make the folder"),
    ],
)
def test_a_place_that_cannot_be_is_a_clear_error(
    drift: Drift, tmp_path: Path, to: str, message: str
) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FfnProbeError, match=message):
        report(drift, to=tmp_path / to)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (float("nan"), "-"), (float("-inf"), MINUS + "\u221e"), (0.0, "0"),
        (1638.4, "1640"), (2.5e7, "2.5e+07"), (-0.0001234, MINUS + "0.000123"),
        (-1.5e-7, MINUS + "1.5e-07"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown

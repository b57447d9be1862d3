"""`report`: write what runs and comparisons tell to a file or a folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.report.browser import find_browser, to_pdf, to_png
from ffn_probe.report.data import to_json
from ffn_probe.report.files import check_folder, encoded, make_folder, write, write_text
from ffn_probe.report.html import to_html
from ffn_probe.report.interactive import to_interactive
from ffn_probe.report.markdown import to_markdown
from ffn_probe.report.paper import Paper
from ffn_probe.report.papers import command_of, name_of, paper_of
from ffn_probe.report.parts import Part, Told, made_of, parts_of
from ffn_probe.report.svg import standalone
from ffn_probe.report.tables import safe_cells, tables_of, to_csv, to_parquet

__all__ = [
    "FILES", "FORMATS", "Told", "check_folder", "check_place", "report", "report_text",
    "safe_cells", "write_parts", "write_text",
]  # fmt: skip

_TEXTS: Mapping[str, Callable[[Sequence[Part]], str]] = {
    ".html": lambda parts: to_html(paper_of(parts, ".html")),
    ".md": lambda parts: to_markdown(paper_of(parts, ".md")),
    ".json": lambda parts: to_json(parts, command_of(parts, ".json")),
}
FORMATS: tuple[str, ...] = tuple(_TEXTS)
"""The suffixes of a report that is text."""

FILES: tuple[str, ...] = (*FORMATS, ".pdf", ".svg", ".png")
"""The suffixes of a report; no suffix is a folder of all of them with the tables."""

_BROWSER = (".pdf", ".png")  # made by a browser


def report(
    told: Told, *, to: str | os.PathLike[str], interactive: bool = False, png: bool = False
) -> Path:
    """Write what runs and comparisons tell, and return the path.

    The same input gives the same bytes (of PDF and PNG: with the same browser).

    Args:
        told: what `compare` returned; a run of one model, or a paired one (or the attribution
            it explains); or several of these. A path stands for the run there. Of several
            runs of one model the first is the reference of the others.
        to: `x.html` (one offline file), `x.md`, `x.json`, `x.pdf`, `x.svg` or `x.png` (the
            main chart), or a folder (HTML, Markdown, JSON, the tables as CSV and Parquet,
            every chart as SVG). A file that exists is replaced, whole or not at all.
        interactive: put plotly into the HTML, so that charts answer to the pointer; the file
            is 5 MB and stays offline.
        png: write the charts of a folder as PNG, too. This and PDF need an installed Chromium.

    Raises:
        FfnProbeError: the suffix stands for no format, the place cannot be written, there is
            nothing to tell, or no Chromium.
        RunError: a run cannot be read.
        CompareError: two runs cannot be compared.
    """
    check_place(to, interactive=interactive, png=png)
    return write_parts(parts_of(told), to, interactive=interactive, png=png)


def write_parts(
    parts: Sequence[Part],
    to: str | os.PathLike[str],
    *,
    interactive: bool = False,
    png: bool = False,
) -> Path:
    """Write parts as `report` writes them, and return the path."""
    path = Path(to)
    suffix = _suffix(path)
    if not suffix:
        return _folder(path, parts, interactive=interactive, png=png)
    if suffix in _TEXTS:
        write_text(path, _text(parts, suffix, interactive=interactive))
    elif suffix == ".pdf":
        write(path, to_pdf(to_html(paper_of(parts, suffix)), made=made_of(parts)))
    else:
        chart = _main_chart(paper_of(parts), path)
        write(path, to_png(chart) if suffix == ".png" else encoded(standalone(chart)))
    return path


def check_place(
    to: str | os.PathLike[str], *, interactive: bool = False, png: bool = False
) -> None:
    """Raise what `report` would raise for a place, as far as it shows before any work.

    Raises:
        FfnProbeError: the suffix stands for no format, there is no such folder, an option
            does not go with it, or there is no Chromium for it.
    """
    path = Path(to)
    suffix = _suffix(path)
    if suffix:
        check_folder(path)
    if interactive and suffix not in {"", ".html"}:
        raise FfnProbeError(f"only .html and a folder can be interactive, not {path}")
    if png and suffix:
        raise FfnProbeError(f"charts as PNG beside a report need a folder, not {path}")
    if png or suffix in _BROWSER:
        find_browser()


def report_text(told: Told, suffix: str) -> str:
    """Return the report in one of the FORMATS as text.

    Raises:
        UnknownName: the suffix stands for no format.
        FfnProbeError: there is nothing to tell.
    """
    if suffix not in FORMATS:
        raise UnknownName.of("report format", suffix, FORMATS)
    return _TEXTS[suffix](parts_of(told))


def _text(parts: Sequence[Part], suffix: str, *, interactive: bool) -> str:
    if interactive and suffix == ".html":
        return to_interactive(paper_of(parts, suffix, interactive=True))
    return _TEXTS[suffix](parts)


def _suffix(path: Path) -> str:
    """Return the suffix of a file's format, "" for a folder."""
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return ""
    if suffix not in FILES:
        raise FfnProbeError(
            f"no report format {path.suffix!r} ({path}); possible: {', '.join(FILES)}, or a "
            "folder"
        )
    return suffix


def _main_chart(paper: Paper, path: Path) -> str:
    if paper.parts:
        raise FfnProbeError(
            f"{path} holds one chart, and there are {len(paper.parts)} parts; report them one "
            "by one, or into a folder"
        )
    chart = next(paper.charts, None)
    if chart is None:
        raise FfnProbeError(f"cannot write {path}: nothing was recorded for a chart to show")
    return chart.svg


def _folder(folder: Path, parts: Sequence[Part], *, interactive: bool, png: bool) -> Path:
    """Make every file, then write them."""
    name = name_of(parts)
    made = {
        f"{name}{suffix}": encoded(_text(parts, suffix, interactive=interactive))
        for suffix in _TEXTS
    }
    for title, frame in tables_of(parts).items():
        made[f"{title}.csv"] = encoded(to_csv(frame))
        made[f"{title}.parquet"] = to_parquet(frame)
    charts = charts_of(paper_of(parts))
    for file, svg in charts.items():
        made[f"charts/{file}.svg"] = encoded(standalone(svg))
        if png:
            made[f"charts/{file}.png"] = to_png(svg)
    make_folder(folder / "charts" if charts else folder)
    for file, data in made.items():
        write(folder / file, data)
    return folder


def charts_of(paper: Paper) -> dict[str, str]:
    """Return file name -> SVG of every chart; of several parts with the part's number."""
    found = {chart.file: chart.svg for chart in paper.charts}
    found |= {f"{chart.file}-quantiles": chart.below for chart in paper.charts if chart.below}
    for i, part in enumerate(paper.parts, 1):
        found |= {f"part-{i}-{file}": svg for file, svg in charts_of(part).items()}
    return found

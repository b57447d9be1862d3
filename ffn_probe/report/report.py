"""`report`: write what runs and comparisons tell to a file or a folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.report.data import to_json
from ffn_probe.report.files import check_folder, encoded, make_folder, write, write_text
from ffn_probe.report.html import to_html
from ffn_probe.report.markdown import to_markdown
from ffn_probe.report.paper import Paper
from ffn_probe.report.papers import command_of, name_of, paper_of
from ffn_probe.report.parts import Part, Told, parts_of
from ffn_probe.report.svg import standalone
from ffn_probe.report.tables import safe_cells, tables_of, to_csv, to_parquet

__all__ = [
    "FILES", "FORMATS", "Told", "check_folder", "check_place", "report", "report_text",
    "safe_cells", "write_text",
]  # fmt: skip

_TEXTS: Mapping[str, Callable[[Sequence[Part]], str]] = {
    ".html": lambda parts: to_html(paper_of(parts, ".html")),
    ".md": lambda parts: to_markdown(paper_of(parts, ".md")),
    ".json": lambda parts: to_json(parts, command_of(parts, ".json")),
}
FORMATS: tuple[str, ...] = tuple(_TEXTS)
"""The suffixes of a report that is text."""

FILES: tuple[str, ...] = (*FORMATS, ".svg")
"""The suffixes of a report; no suffix is a folder of all of them with the tables."""


def report(told: Told, *, to: str | os.PathLike[str]) -> Path:
    """Write what runs and comparisons tell, and return the path.

    The same input gives the same bytes.

    Args:
        told: what `compare` returned; a run of one model, or a paired one (or the attribution
            it explains); or several of these. A path stands for the run there. Of several
            runs of one model the first is the reference of the others.
        to: `x.html` (one offline file), `x.md`, `x.json`, `x.svg` (the main chart), or a
            folder (all of them, every chart, and the tables as CSV and Parquet). A file that
            exists is replaced, whole or not at all.

    Raises:
        FfnProbeError: the suffix stands for no format, the place cannot be written, or there
            is nothing to tell.
        RunError: a run cannot be read.
        CompareError: two runs cannot be compared.
    """
    path = Path(to)
    suffix = _suffix(path)
    parts = parts_of(told)
    if not suffix:
        return _folder(path, parts)
    if suffix in _TEXTS:
        write_text(path, _TEXTS[suffix](parts))
    else:
        write_text(path, standalone(_main_chart(paper_of(parts), path)))
    return path


def check_place(to: str | os.PathLike[str]) -> None:
    """Raise what `report` would raise for a place, as far as it shows before any work.

    Raises:
        FfnProbeError: the suffix stands for no format, or there is no such folder.
    """
    path = Path(to)
    if _suffix(path):
        check_folder(path)


def report_text(told: Told, suffix: str) -> str:
    """Return the report in one of the FORMATS as text.

    Raises:
        UnknownName: the suffix stands for no format.
        FfnProbeError: there is nothing to tell.
    """
    if suffix not in FORMATS:
        raise UnknownName.of("report format", suffix, FORMATS)
    return _TEXTS[suffix](parts_of(told))


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
            f"{path} holds one chart and there are {len(paper.parts)} parts; report them one "
            "by one, or into a folder"
        )
    chart = next(paper.charts, None)
    if chart is None:
        raise FfnProbeError(
            f"cannot write {path}: nothing was recorded that a chart could show"
        )
    return chart.svg


def _folder(folder: Path, parts: Sequence[Part]) -> Path:
    """Make every file, then write them."""
    name, paper = name_of(parts), paper_of(parts)
    made = {f"{name}{suffix}": encoded(make(parts)) for suffix, make in _TEXTS.items()}
    for title, frame in tables_of(parts).items():
        made[f"{title}.csv"] = encoded(to_csv(frame))
        made[f"{title}.parquet"] = to_parquet(frame)
    charts = {file: encoded(standalone(svg)) for file, svg in charts_of(paper).items()}
    make_folder(folder)
    if charts:
        make_folder(folder / "charts")
    for file, data in {**made, **{f"charts/{k}.svg": v for k, v in charts.items()}}.items():
        write(folder / file, data)
    return folder


def charts_of(paper: Paper) -> dict[str, str]:
    """Return file name -> SVG of every chart; of several parts with the part's number."""
    found = {chart.file: chart.svg for chart in paper.charts}
    for i, part in enumerate(paper.parts, 1):
        found |= {f"part-{i}-{chart.file}": chart.svg for chart in part.charts}
    return found

"""`report`: write a drift, or the story of a paired run, to a file or a folder."""

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from ffn_probe.attribution.attribution import Attribution
from ffn_probe.compare import Drift
from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.report import paired_markdown, paired_page
from ffn_probe.report.markdown import to_markdown
from ffn_probe.report.page import to_html
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_tables import tables_of
from ffn_probe.runs import Run

Told = Drift | Run | Attribution
"""What can be reported: a comparison, or a paired run (or what it explains)."""

_DRIFT: Mapping[str, Callable[[Drift], str]] = {
    ".html": to_html,
    ".md": to_markdown,
    ".json": Drift.to_json,
}
_PAIRED: Mapping[str, Callable[[Story], str]] = {
    ".html": paired_page.to_html,
    ".md": paired_markdown.to_markdown,
    ".json": lambda story: story.attribution.to_json(),
}
FORMATS: tuple[str, ...] = tuple(_DRIFT)
"""The suffixes of a report; no suffix is a folder of all of them with the tables."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def report(told: Told, *, to: str | os.PathLike[str]) -> Path:
    """Write a drift, or the story of a paired run, and return the path.

    Args:
        told: what `compare` returned; or a paired run, or the attribution it explains.
        to: `x.html` (one offline file), `x.md`, `x.json`, or a folder (all three, and the
            tables as CSV and Parquet). A file that exists is replaced, whole or not at all.

    Raises:
        FfnProbeError: the suffix stands for no format, the place cannot be written, or the
            run is not a paired one.
    """
    path = Path(to)
    suffix = _suffix(path)
    made, name, tables = _making(told)
    if suffix:
        _write(path, _encoded(made[suffix]()))
        return path
    return _folder(path, name, made, tables())


def check_place(to: str | os.PathLike[str]) -> None:
    """Raise what `report` would raise for a place, as far as it shows before any work.

    Raises:
        FfnProbeError: the suffix stands for no format, or there is no such folder.
    """
    path = Path(to)
    if _suffix(path):
        check_folder(path)


def check_folder(path: Path) -> None:
    """Raise FfnProbeError when the folder in which a file is to be is not there."""
    if not path.parent.is_dir():
        raise FfnProbeError(f"cannot write {path}: no folder {path.parent}")


def _suffix(path: Path) -> str:
    """Return the suffix of a file's format, "" for a folder."""
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return ""
    if suffix not in FORMATS:
        raise FfnProbeError(
            f"no report format {path.suffix!r} ({path}); possible: {', '.join(FORMATS)}, or a "
            "folder"
        )
    return suffix


def report_text(told: Told, suffix: str) -> str:
    """Return the report in one of the FORMATS as text.

    Raises:
        UnknownName: the suffix stands for no format.
        FfnProbeError: the run is not a paired one.
    """
    if suffix not in FORMATS:
        raise UnknownName.of("report format", suffix, FORMATS)
    return _making(told)[0][suffix]()


_Tables = Mapping[str, pd.DataFrame]


def _making(
    told: Told,
) -> tuple[Mapping[str, Callable[[], str]], str, Callable[[], _Tables]]:
    """Return what makes each format, the name of the files, and what makes the tables."""
    if isinstance(told, Drift):
        formats = {suffix: partial(make, told) for suffix, make in _DRIFT.items()}
        return formats, "drift", lambda: {"drift": told.table()}
    story = Story.of(told)
    formats = {suffix: partial(make, story) for suffix, make in _PAIRED.items()}
    return formats, "attribution", partial(tables_of, story)


def _folder(
    folder: Path, name: str, formats: Mapping[str, Callable[[], str]], tables: _Tables
) -> Path:
    """Make every file, then write them."""
    made = {f"{name}{suffix}": _encoded(make()) for suffix, make in formats.items()}
    for title, frame in tables.items():
        made[f"{title}.csv"] = _encoded(safe_cells(frame).to_csv(index=False))
        made[f"{title}.parquet"] = frame.to_parquet(index=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FfnProbeError(f"cannot make the folder {folder}: {error.strerror}") from error
    for file, data in made.items():
        _write(folder / file, data)
    return folder


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; a file that exists is replaced, whole or not at all.

    Raises:
        FfnProbeError: the place cannot be written.
    """
    _write(path, _encoded(text))


def safe_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a quote before text that a spreadsheet takes for a formula."""

    def safe(cell: object) -> object:
        return "'" + cell if isinstance(cell, str) and cell.startswith(_FORMULA) else cell

    return frame.assign(**{name: frame[name].map(safe) for name in frame.columns})


def _encoded(text: str) -> bytes:
    """Return UTF-8; a lone surrogate out of a damaged name becomes a question mark."""
    return text.encode("utf-8", "replace")


def _write(path: Path, data: bytes) -> None:
    """Write to a name beside `path`, then take its place: never half a file."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            beside = Path(file.name)
            try:
                file.write(data)
                file.flush()
                beside.chmod(mode)
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise FfnProbeError(f"cannot write {path}: {error.strerror or error}") from error

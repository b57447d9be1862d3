"""`report`: write a drift to a file or a folder."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from ffn_probe.compare import Drift
from ffn_probe.errors import FfnProbeError
from ffn_probe.report.markdown import to_markdown
from ffn_probe.report.page import to_html

FORMATS: Mapping[str, Callable[[Drift], str]] = {
    ".html": to_html,
    ".md": to_markdown,
    ".json": Drift.to_json,
}
"""What a suffix stands for; no suffix is a folder of all of them with the tables."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def report(drift: Drift, *, to: str | os.PathLike[str]) -> Path:
    """Write a drift and return the path.

    Args:
        drift: what `compare` returned.
        to: `x.html` (one offline file), `x.md`, `x.json`, or a folder (all three, and the
            table of changes as `drift.csv` and `drift.parquet`). A file that exists is
            replaced, whole or not at all.

    Raises:
        FfnProbeError: the suffix stands for no format, or the place cannot be written.
    """
    path = Path(to)
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return _folder(drift, path)
    if suffix not in FORMATS:
        raise FfnProbeError(
            f"no report format {path.suffix!r} ({path}); possible: {', '.join(FORMATS)}, or a "
            "folder"
        )
    _write(path, _encoded(FORMATS[suffix](drift)))
    return path


def _folder(drift: Drift, folder: Path) -> Path:
    """Make every file, then write them."""
    made = {f"drift{suffix}": _encoded(make(drift)) for suffix, make in FORMATS.items()}
    frame = drift.table()
    made["drift.csv"] = _encoded(safe_cells(frame).to_csv(index=False))
    made["drift.parquet"] = frame.to_parquet(index=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FfnProbeError(f"cannot make the folder {folder}: {error.strerror}") from error
    for name, data in made.items():
        _write(folder / name, data)
    return folder


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

"""Every page as a file: the numbers behind it as JSON, CSV, Parquet, and the reports."""

import io
import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from flask import Flask, Response, abort, request

from dashboard.components.page import Page, Query
from dashboard.data import Library
from dashboard.routes import ROUTES, query_of, render
from dashboard.shell import SHOWN
from ffn_probe.compare import Drift
from ffn_probe.errors import FfnProbeError, UnknownName
from ffn_probe.report import FILES, report
from ffn_probe.report.report import safe_cells
from ffn_probe.runs import Run

_MIME: Mapping[str, str] = {
    "html": "text/html", "md": "text/markdown", "json": "application/json",
    "pdf": "application/pdf", "svg": "image/svg+xml", "png": "image/png",
    "csv": "text/csv", "parquet": "application/vnd.apache.parquet",
}  # fmt: skip


def serve_files(server: Flask, library: Library, lock: threading.RLock) -> None:
    """Serve `<page>.json`, `.csv`, `.parquet` and `/report/<noun>.<format>`.

    The query is that of the page; `table` picks one of several tables.
    """

    def twin(suffix: str, path: str) -> Response:
        search = request.query_string.decode("utf-8", "replace")
        try:
            with lock:
                page = render(library, path, search)
                data, kind = written(page, suffix, path, query_of(search))
        except FfnProbeError as error:
            return _refused(error)
        return _named(data, kind, (path.strip("/") or "runs").replace("/", "-"))

    for path in ROUTES:
        rule = (path.rstrip("/") or "/runs") + ".<any(json, csv, parquet):suffix>"
        server.add_url_rule(rule, f"twin {path}", twin, defaults={"path": path})

    def unknown(path: str, suffix: str) -> Response:
        del path
        known = ", ".join(f"{path.rstrip('/') or '/runs'}.{suffix}" for path in ROUTES)
        return Response(f"no such page; possible: {known}", status=404, mimetype="text/plain")

    server.add_url_rule("/<path:path>.<any(json, csv, parquet):suffix>", "unknown", unknown)

    nouns: Mapping[str, Callable[[Query], Drift | Run]] = {
        "drift": lambda query: library.drift(query.get("a", ""), query.get("b", "")),
        "attribution": lambda query: library.run(query.get("run", "")),
        "run": lambda query: library.run(query.get("run", "")),
    }

    def export(noun: str, suffix: str) -> Response:
        if "." + suffix not in FILES:
            abort(404)
        try:
            with lock, TemporaryDirectory() as folder:
                path = report(nouns[noun](request.args), to=Path(folder) / f"{noun}.{suffix}")
                data = path.read_bytes()
        except FfnProbeError as error:
            return _refused(error)
        return _named(data, suffix, noun)

    server.add_url_rule(
        "/report/<any(drift, attribution, run):noun>.<suffix>", "report", export
    )
    server.add_url_rule("/report/<path:path>", "no report", lambda path: abort(404, path))


def written(page: Page, suffix: str, path: str, query: Query) -> tuple[bytes, str]:
    """Return the numbers of a page as a file: all tables (JSON), or one of them.

    Raises:
        FfnProbeError: the page could not be made, or has no such table.
    """
    if page.error:
        raise FfnProbeError(_text(page.content))
    if not page.data:
        raise FfnProbeError(f"the page {path} has no numbers with this query")
    name = query.get("table", next(iter(page.data)))
    if name not in page.data:
        raise UnknownName.of("table", name, page.data)
    if suffix == "json":
        return _json(page, path, query).encode(), suffix
    frame = _frame(page, name)
    if suffix == "csv":
        return safe_cells(frame).to_csv(index=False).encode("utf-8", "replace"), suffix
    data = io.BytesIO()
    frame.to_parquet(data, index=False)
    return data.getvalue(), suffix


def _json(page: Page, path: str, query: Query) -> str:
    chosen = [query["table"]] if "table" in query else list(page.data)
    tables = {name: _frame(page, name).to_dict("records") for name in chosen}
    said = {"page": path, "query": dict(query), "title": page.title, "tables": tables}
    return json.dumps(_plain(said), indent=1, allow_nan=False)


def _frame(page: Page, name: str) -> pd.DataFrame:
    found = page.data[name]
    return found() if callable(found) else found


def _plain(value: Any) -> Any:
    """Return JSON types; what is not finite is the text "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _text(content: Any) -> str:
    """Return the words of a page."""
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return " ".join(filter(None, map(_text, content)))
    return _text(getattr(content, "children", None) or "")


def _named(data: bytes, suffix: str, name: str) -> Response:
    """Return a file under its name; what is text to read a browser shows, it saves the rest."""
    answer = Response(data, mimetype=_MIME[suffix])
    if suffix not in SHOWN:
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}.{suffix}"'
    return answer


def _refused(error: FfnProbeError) -> Response:
    return Response(str(error).encode("utf-8", "replace"), status=404, mimetype="text/plain")

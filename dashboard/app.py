"""The app: routes to pages, callbacks, and what keeps it on this machine."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update, set_props
from flask import Response, abort, request

from dashboard import LOOPBACK
from dashboard.components.page import Content, Page, Query, href, problem
from dashboard.data import Library
from dashboard.ids import MAP, PAGE, TITLE, TITLE_SET, URL
from dashboard.pages.compare import compared
from dashboard.pages.run import run
from dashboard.pages.runs import runs
from dashboard.pages.site import site
from ffn_probe.compare import Drift
from ffn_probe.errors import FfnProbeError
from ffn_probe.report import FORMATS, report_text
from ffn_probe.report.style import STYLE
from ffn_probe.runs import Run

ROUTES: Mapping[str, Callable[[Library, Query], Page]] = {
    "/": runs,
    "/run": run,
    "/compare": compared,
    "/compare/site": site,
}

_MIME = {".html": "text/html", ".md": "text/markdown", ".json": "application/json"}
_ONE_AT_A_TIME = threading.RLock()  # runs load their tables when asked, in one thread
_HTML = """<!doctype html>
<html lang="en"><head>{%metas%}<title>{%title%}</title>{%favicon%}
<style>STYLE</style>{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""


def make_app(root: Path, *, remote: bool = False) -> Dash:
    """Return the dashboard over the runs of a folder; `remote` answers any host name."""
    app = Dash(
        "dashboard",
        assets_folder=str(Path(__file__).parent / "assets"),
        use_pages=False,
        title="ffn-probe",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        index_string=_HTML.replace("STYLE", STYLE),
        on_error=_failed,
    )
    app.layout = html.Div([
        dcc.Location(id=URL, refresh="callback-nav"),
        dcc.Store(id=TITLE),
        dcc.Store(id=TITLE_SET),
        html.Header(dcc.Link("ffn-probe", href="/", className="home")),
        html.Main(id=PAGE),
    ])  # fmt: skip
    library = Library(root)
    _connect(app, library)
    _serve_reports(app, library)
    _guard(app, remote=remote)
    return app


def render(library: Library, path: str, search: str) -> Page:
    """Return the page of a URL; what cannot be shown becomes a page that says why."""
    make = ROUTES.get(path.rstrip("/") or "/")
    if make is None:
        return problem("No such page", f"There is no page {path!r}.")
    try:
        with _ONE_AT_A_TIME:
            return make(library, query_of(search))
    except FfnProbeError as error:
        return problem("This cannot be shown", str(error))


def query_of(search: str) -> dict[str, str]:
    """Return the parameters of "?a=x&b=y"; of one given twice, the first."""
    found: dict[str, str] = {}
    for key, value in parse_qsl(search.removeprefix("?")):
        found.setdefault(key, value)
    return found


def target(clicked: Mapping[str, Any] | None, to: str, search: str) -> str:
    """Return where a click on a heatmap's cell leads, "" when it leads nowhere."""
    points = (clicked or {}).get("points") or [{}]
    name = points[0].get("customdata")
    return (
        href(to, **(query_of(search) | {"site": name}))
        if isinstance(name, str) and name
        else ""
    )


def _failed(error: Exception) -> None:
    """Show what no one foresaw as a page too; the terminal says where it happened."""
    logging.getLogger("dashboard").error("a page failed", exc_info=error)
    said = f"{type(error).__name__}: {error}. The terminal of the dashboard says where."
    set_props(PAGE, {"children": problem("This page failed", said).content})


# ---- wiring -----------------------------------------------------------------------------


def _connect(app: Dash, library: Library) -> None:
    @app.callback(
        Output(PAGE, "children"),
        Output(TITLE, "data"),
        Input(URL, "pathname"),
        Input(URL, "search"),
    )
    def show(path: str | None, search: str | None) -> tuple[Content, str]:
        shown = render(library, path or "/", search or "")
        return shown.content, shown.title

    @app.callback(
        Output(URL, "href"),
        Input({"type": MAP, "to": ALL}, "clickData"),
        State(URL, "search"),
        prevent_initial_call=True,
    )
    def follow(clicks: list[Mapping[str, Any] | None], search: str | None) -> Any:
        # A page that is mounted again (Back) calls this with no click at all.
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return no_update
        clicked = next(click for click in clicks if click)
        return target(clicked, ctx.triggered_id["to"], search or "") or no_update

    app.clientside_callback(  # type: ignore[no-untyped-call]
        "function(title) { document.title = title || 'ffn-probe'; return title; }",
        Output(TITLE_SET, "data"),
        Input(TITLE, "data"),
    )


def _serve_reports(app: Dash, library: Library) -> None:
    def drift() -> Drift:
        return library.drift(request.args.get("a", ""), request.args.get("b", ""))

    def paired() -> Run:
        return library.run(request.args.get("run", ""))

    def export(noun: str, suffix: str) -> Response:
        if suffix not in FORMATS:
            abort(404)
        try:
            with _ONE_AT_A_TIME:
                text = report_text(drift() if noun == "drift" else paired(), suffix)
        except FfnProbeError as error:
            return Response(str(error), status=404, mimetype="text/plain")
        return Response(text.encode("utf-8", "replace"), mimetype=_MIME[suffix])

    app.server.add_url_rule("/report/<any(drift, attribution):noun><suffix>", view_func=export)


def _guard(app: Dash, *, remote: bool) -> None:
    """Answer to this machine's names only, and let a page load nothing from elsewhere."""

    def known_host() -> None:
        name = request.host.rpartition(":")[0] if request.host[-1:].isdigit() else request.host
        if not remote and (name or request.host).strip("[]") not in LOOPBACK:
            abort(403, "ask for 127.0.0.1 or localhost")  # another site's name, rebound to us

    def harden(response: Response) -> Response:
        # The hashes are complete only once the first page was made.
        scripts = " ".join(app.csp_hashes())
        policy = (
            f"default-src 'self'; script-src 'self' {scripts}; img-src 'self' data: blob:; "
            "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    app.server.before_request(known_host)
    app.server.after_request(harden)

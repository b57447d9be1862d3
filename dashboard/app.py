"""The app: the frame around the pages, the callbacks, and what keeps it on this machine."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update, set_props

from dashboard.components.page import Content, Page, attrs, href, problem, working
from dashboard.data import Library
from dashboard.files import serve_files
from dashboard.guard import guard
from dashboard.ids import EXPORTS, MAP, NAVIGATION, PAGE, TICK, TITLE, TITLE_SET, URL, VERSION
from dashboard.routes import query_of, render
from dashboard.sheet import SHEET
from dashboard.shell import exports, help_dialog, navigation
from dashboard.work import Progress, Work

_EVERY, _SOON = 2000, 400  # ms between looks at what may have changed, at what is made
_ONE_AT_A_TIME = threading.RLock()  # files are written one after the other
_HTML = """<!doctype html>
<html lang="en"><head>{%metas%}<title>{%title%}</title>{%favicon%}
<style>STYLE</style>{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""


def make_app(root: Path, *, token: str = "", remote: bool = False) -> Dash:
    """Return the dashboard over the runs of a folder; `token` and `remote` as `guard`."""
    app = Dash(
        "dashboard",
        assets_folder=str(Path(__file__).parent / "assets"),
        use_pages=False,
        title="ffn-probe",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
        index_string=_HTML.replace("STYLE", SHEET),
        on_error=_failed,
    )
    app.layout = _layout()
    library = Library(root)
    _connect(app, library)
    serve_files(app.server, library, _ONE_AT_A_TIME)
    guard(app, token=token, remote=remote)
    return app


def _layout() -> Content:
    tools = html.Div(
        [
            html.Label([
                html.Span("Filter the rows of the tables", className="unseen"),
                dcc.Input(id="filter", type="search", placeholder="filter rows  /"),
            ]),
            html.Button("\u25d0", title="Light, dark, or as the system says (t)",
                        **attrs(data_theme_switch="", aria_label="Colour scheme")),
            html.Button("?", title="Keyboard (?)",
                        **attrs(data_open="help", aria_label="Keyboard")),
        ],
        className="tools",
    )  # fmt: skip
    return html.Div([
        dcc.Location(id=URL, refresh="callback-nav"),
        dcc.Store(id=TITLE),
        dcc.Store(id=TITLE_SET),
        dcc.Store(id=VERSION),
        dcc.Interval(id=TICK, interval=_EVERY, max_intervals=0),
        html.A("To the content", href="#page", className="skip"),
        html.Header([
            html.Div([dcc.Link("ffn-probe", href="/", className="home"), tools],
                     className="top"),
            html.Nav(id=NAVIGATION, className="pages", **attrs(aria_label="Pages")),
        ]),
        html.Main(id=PAGE, tabIndex="-1"),
        html.Div(id=EXPORTS, className="exports", role="group", **attrs(aria_label="Export")),
        help_dialog(),
        html.Div(id="said", role="status", **attrs(aria_live="polite")),
    ])  # fmt: skip


def target(clicked: Mapping[str, Any] | None, to: str, search: str, key: str = "site") -> str:
    """Return where a click on a chart leads, "" when it leads nowhere."""
    points = (clicked or {}).get("points") or [{}]
    name = points[0].get("customdata")
    if isinstance(name, list) and name:
        name = name[0]
    return (
        href(to, **(query_of(search) | {key: name})) if isinstance(name, str) and name else ""
    )


def _failed(error: Exception) -> None:
    """Show what no one foresaw as a page too; the terminal says where it happened."""
    logging.getLogger("dashboard").error("a page failed", exc_info=error)
    said = f"{type(error).__name__}: {error}. The terminal of the dashboard says where."
    set_props(PAGE, {"children": problem("This page failed", said).content})


# ---- wiring -----------------------------------------------------------------------------


def _made(library: Library, path: str, search: str) -> tuple[Page, Content]:
    """Return a page and the way from it to the others."""
    return render(library, path, search), navigation(library, path, query_of(search))


def _connect(app: Dash, library: Library) -> None:
    work: Work[tuple[Page, Content]] = Work()

    @app.callback(
        Output(PAGE, "children"),
        Output(NAVIGATION, "children"),
        Output(EXPORTS, "children"),
        Output(TITLE, "data"),
        Output(TICK, "max_intervals"),
        Output(TICK, "interval"),
        Output(VERSION, "data"),
        Input(URL, "pathname"),
        Input(URL, "search"),
        Input(TICK, "n_intervals"),
        State(VERSION, "data"),
    )
    def show(path: str | None, search: str | None, ticks: int | None, known: Any) -> Any:
        path, search = path or "/", search or ""
        version, deep = known or ("", False)
        # One look at a time: the next is asked for with the answer to the last, or a slow
        # answer would be passed over for the one after it, and so on.
        next_tick = (ticks or 0) + 1
        made = work.get((path, search), lambda: _made(library, path, search))
        if isinstance(made, Progress):
            page, around = working(made), no_update
        else:
            page, around = made
            if ctx.triggered_id == TICK and page.version == version:
                return *[no_update] * 4, next_tick, no_update, no_update
        files = exports(path, query_of(search), page)
        pace = _SOON if isinstance(made, Progress) else _EVERY
        looks = next_tick if page.version else 0
        # Of another shape than the page before: Dash holds old and new against each other
        # value by value, for many seconds where charts are large, unless they differ at once.
        content = page.content if deep else html.Div(page.content)
        kept = (page.version, not deep)
        return content, around, files, page.title, looks, pace, kept

    @app.callback(
        Output(URL, "href"),
        Input({"type": MAP, "to": ALL, "key": ALL, "name": ALL}, "clickData"),
        State(URL, "search"),
        prevent_initial_call=True,
    )
    def follow(clicks: list[Mapping[str, Any] | None], search: str | None) -> Any:
        # A page that is mounted again (Back) calls this with no click at all.
        if not any(clicks) or not isinstance(ctx.triggered_id, dict):
            return no_update
        clicked = ctx.triggered[0]["value"]
        chart = ctx.triggered_id
        return target(clicked, chart["to"], search or "", chart["key"]) or no_update

    app.clientside_callback(  # type: ignore[no-untyped-call]
        "function(title) { document.title = title || 'ffn-probe'; return title; }",
        Output(TITLE_SET, "data"),
        Input(TITLE, "data"),
    )

"""What is around every page: the way to the others, and the page as files."""

from collections.abc import Mapping

from dash import dcc, html

from dashboard.components.page import Content, Page, Query, attrs, href
from dashboard.data import Library, is_paired
from dashboard.routes import ROUTES, Route
from ffn_probe.errors import FfnProbeError

_NEEDS: Mapping[str, str] = {
    "run": "open a run first",
    "sides": "choose a run as A first",
    "pair": "choose two runs, A and B, first",
    "paired": "open a run of two models first (the table of runs calls it paired)",
}
SHOWN = ("html", "md", "json")
"""The files that a browser shows; others it saves."""
TWINS = ("json", "csv", "parquet")
REPORTS: Mapping[str, str] = {"html": "HTML", "md": "Markdown", "json": "JSON", "pdf": "PDF"}
KEYS: tuple[tuple[str, str], ...] = (
    ("?", "this help"),
    ("/", "filter the rows of the tables"),
    ("j, k", "next and previous row"),
    ("Enter", "open the row"),
    ("[, ]", "previous and next layer"),
    ("Esc", "close, leave a field, or go back"),
    ("t", "light, dark, or as the system says"),
    ("c", "copy the link to this view"),
)


def navigation(library: Library, path: str, query: Query) -> Content:
    """Return links to all pages, with what is chosen carried along."""
    chosen = _chosen(library, query)
    here = path.rstrip("/") or "/"
    return [_link(route, chosen, here) for route in ROUTES.values() if route.text]


def _chosen(library: Library, query: Query) -> dict[str, str]:
    """Return the runs of the address: a, b, the one looked at, and it again when paired."""
    run = query.get("run", "")
    chosen = {side: query.get(side, "") for side in "ab"} | {"paired": "", "run": ""}
    if run:
        try:
            paired = is_paired(library.run(run))
        except FfnProbeError:
            return chosen
        chosen["run"] = run
        if paired:
            chosen["paired"] = run
        else:
            chosen["a"] = chosen["a"] or run
    return chosen


def _link(route: Route, chosen: Mapping[str, str], here: str) -> Content:
    sides = {side: chosen[side] for side in "ab"}
    paired, run = chosen["paired"], chosen["run"] or chosen["a"]
    queries: Mapping[str, Mapping[str, str]] = {
        "": sides,
        "run": {"run": run, **sides} if run else {},
        "sides": sides if sides["a"] else {},
        "pair": sides if all(sides.values()) else {},
        "paired": {"run": paired, **sides} if paired else {},
    }
    query = queries[route.takes]
    inside = here == route.path or (route.path != "/" and here.startswith(route.path + "/"))
    if route.takes and not any(query.values()):
        return html.Span(
            route.text,
            className="off" + " here" * inside,
            title=_NEEDS[route.takes],
            **attrs(aria_disabled="true"),
        )
    current = attrs(aria_current="page") if inside else {}
    where = href(route.path, **query)
    link = dcc.Link(route.text, href=where, className="here" * inside, title=route.told)
    return html.Span(link, className="here" * inside, **current)


def exports(path: str, query: Query, page: Page) -> Content:
    """Return the page as files, links and a command."""
    if page.error:
        return None
    groups: list[tuple[str, list[Content]]] = []
    if page.report:
        where, _, rest = page.report.partition("?")
        links = [_file(text, f"{where}.{end}?{rest}") for end, text in REPORTS.items()]
        groups.append(("Report", links))
    if page.data:
        twin = (path.rstrip("/") or "/runs") + "."
        names = list(page.data)
        kept = {k: v for k, v in query.items() if k != "table"}
        links = [_file(end.upper(), href(twin + end, **kept)) for end in TWINS]
        for name in names[1:]:
            links.append(_file(f"{name}.csv", href(twin + "csv", **(kept | {"table": name}))))
        groups.append(("Data of this page", links))
    copy: list[Content] = [html.Button("link", **attrs(data_copy="", data_what="link"))]
    if page.command:
        copy.append(html.Button("command", title=page.command, **attrs(data_copy=page.command)))
    groups.append(("Copy", copy))
    return [
        html.Div([html.Span(text, className="dim"), *links], className="group")
        for text, links in groups
    ]


def _file(text: str, where: str) -> Content:
    """Return a link to a file: what a browser can show opens beside, the rest is saved."""
    suffix = where.partition("?")[0].rpartition(".")[2]
    if suffix in SHOWN:
        return html.A(text, href=where, target="_blank", rel="noopener")
    return html.A(text, href=where, **attrs(data_file=""))


def help_dialog() -> Content:
    """Return the list of keys, which `?` opens (assets/keys.js)."""
    rows = [html.Tr([html.Th(html.Kbd(key), scope="row"), html.Td(text)]) for key, text in KEYS]
    head = html.Tr([html.Th("key", scope="col"), html.Th("what it does", scope="col")])
    return html.Dialog(
        [
            html.Table([html.Caption("Keyboard"), html.Thead(head), html.Tbody(rows)]),
            html.Button("Close", **attrs(data_close="help")),
        ],
        id="help",
        **attrs(aria_label="Keyboard"),
    )

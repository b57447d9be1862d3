"""Every run of the folder, and the choice of two to compare."""

from collections.abc import Iterable

from dash import dcc, html

from dashboard.components.page import Content, Page, Query, href, page
from dashboard.components.table import table
from dashboard.data import Entry, Library, is_paired
from ffn_probe.report.words import shortened

_HEAD = ("as A", "as B", "run", "state", "model", "norm", "activation", "dtype", "blocks",
         "steps", "tokens", "recorded")  # fmt: skip
_NONE = html.Span("choose one below", className="dim")


def runs(library: Library, query: Query) -> Page:
    """Return the table of runs; `a` and `b` of the query are the chosen two."""
    entries = library.entries()
    if not entries:
        return page("Runs", (), _nothing(library))
    ids = {entry.id for entry in entries if entry.run and not is_paired(entry.run)}
    chosen = {side: query.get(side, "") for side in "ab"}
    chosen = {side: name if name in ids else "" for side, name in chosen.items()}
    return page(
        "Runs", (),
        html.H1("Runs"),
        html.P([html.Code(str(library.root)), f": {_counted(entries)}."], className="dim"),
        _choice(chosen),
        table(_HEAD, [_row(entry, chosen) for entry in entries], right=(8, 9, 10)),
    )  # fmt: skip


def _nothing(library: Library) -> Content:
    return html.Div(
        [
            html.H1("No runs yet"),
            html.P(["There is no run in ", html.Code(str(library.root)), ". Record one:"]),
            html.Pre(f"ffn-probe record MODEL --data FILE --to {library.root / 'base'}"),
            html.P("and load this page again.", className="dim"),
        ],
        className="empty",
    )


def _counted(entries: tuple[Entry, ...]) -> str:
    broken = sum(entry.run is None for entry in entries)
    text = f"{len(entries)} run" + "s" * (len(entries) > 1)
    return text + (f", {broken} of them cannot be read" if broken else "")


def _choice(chosen: dict[str, str]) -> Content:
    """Return what was chosen and, when both sides are, the way to their comparison."""
    said: list[Content] = [
        html.Span([text, html.B(chosen[side], className=side) if chosen[side] else _NONE])
        for side, text in (("a", "A, reference: "), ("b", "B, candidate: "))
    ]
    if all(chosen.values()):
        said.append(dcc.Link("Compare", href=href("/compare", **chosen), className="button"))
    return html.Div(said, className="choice", role="status")


def _row(entry: Entry, chosen: dict[str, str]) -> list[Content]:
    if entry.run is None:
        reason = html.Td(shortened(entry.problem), className="reason", colSpan=len(_HEAD) - 4)
        return ["", "", entry.id, html.B("broken", className="FAIL"), reason]
    run, made = entry.run, entry.run.manifest
    name = f"{made.model.get('class', '')} {made.model.get('name', '')}".strip()
    notes = "; ".join(run.problems)
    state = html.Span(entry.state, className="" if run.closed else "WARN", title=notes)
    pick: list[Content] = [_pick(entry.id, side, chosen) for side in "ab"]
    if is_paired(run):
        title = "two models on the same inputs; it is no side of a comparison"
        pick = [html.Span("paired", className="dim", title=title), ""]
    return [
        *pick,
        dcc.Link(entry.id, href=href("/run", run=entry.id)),
        state,
        name or "-",
        _kinds(block.norm.kind for block in run.blocks),
        _kinds(f"{block.activation} {block.kind}" for block in run.blocks),
        str(made.model.get("dtype", "-")),
        str(len(run.blocks)),
        f"{made.steps:,}",
        f"{made.tokens:,}",
        made.created[:16].replace("T", " ") or "-",
    ]


def _pick(name: str, side: str, chosen: dict[str, str]) -> Content:
    """Return the link that chooses a run for a side, or takes the choice back."""
    mine = chosen[side] == name
    where = href("/", **(chosen | {side: "" if mine else name}))
    role = {"a": "reference", "b": "candidate"}[side]
    return dcc.Link(
        side.upper(), href=where, className=f"pick {side}" + " chosen" * mine,
        title=f"{name}: not the {role} after all" if mine else f"{name} as the {role}",
    )  # fmt: skip


def _kinds(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "-"

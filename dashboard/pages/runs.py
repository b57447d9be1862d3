"""Every run of the folder, and the choice of two to compare."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import pandas as pd
from dash import dcc, html

from dashboard.components.page import Content, Page, Query, href, page
from dashboard.components.table import Head, table
from dashboard.data import Entry, Library, is_paired
from ffn_probe.errors import UnknownName
from ffn_probe.report.words import shortened

_MOST = 300  # rows of the table; the twin holds all
_NONE = html.Span("choose one below", className="dim")


@dataclass(frozen=True, slots=True)
class _Line:
    """What a row says of a run; `problem` is why it cannot be read, "" where it can."""

    run: str
    state: str
    model: str = "-"
    norm: str = "-"
    activation: str = "-"
    dtype: str = "-"
    blocks: int = 0
    windows: int = 0
    steps: int = 0
    tokens: int = 0
    recorded: str = ""
    tags: str = ""
    paired: bool = False
    problem: str = ""


_COLUMNS = ("run", "state", "model", "norm", "activation", "dtype", "blocks", "windows",
            "steps", "tokens", "recorded", "tags")  # fmt: skip
_NUMBERS = {"blocks", "windows", "steps", "tokens"}


def runs(library: Library, query: Query) -> Page:
    """Return the table of runs; `a` and `b` of the query are the chosen two.

    `sort` is the column that orders it, with "-" in front from the largest down.
    """
    entries = library.entries()
    if not entries:
        return page("Runs", (), _nothing(library), version="none")
    lines = _sorted([_line(entry) for entry in entries], query.get("sort", "run"))
    ids = {line.run for line in lines if not line.problem and not line.paired}
    chosen = {side: query.get(side, "") for side in "ab"}
    chosen = {side: name if name in ids else "" for side, name in chosen.items()}
    caption = f"{_counted(lines)} in {library.root}"
    if len(lines) > _MOST:
        caption += f"; the first {_MOST} of this order are shown"
    return page(
        "Runs", (),
        html.H1("Runs"),
        _choice(chosen),
        table(_head(query), [_row(line, chosen) for line in lines[:_MOST]], caption=caption,
              right=(2 + _COLUMNS.index(name) for name in _NUMBERS)),
        data={"runs": lambda: pd.DataFrame(lines)},
        version=str(hash(tuple(lines))),
    )  # fmt: skip


def _line(entry: Entry) -> _Line:
    if entry.run is None:
        return _Line(entry.id, "broken", problem=entry.problem)
    run, made = entry.run, entry.run.manifest
    name = f"{made.model.get('class', '')} {made.model.get('name', '')}".strip()
    return _Line(
        entry.id,
        entry.state,
        name or "-",
        _kinds(block.norm.kind for block in run.blocks),
        _kinds(f"{block.activation} {block.kind}" for block in run.blocks),
        str(made.model.get("dtype", "-")),
        len(run.blocks),
        made.windows,
        made.steps,
        made.tokens,
        made.created[:16].replace("T", " "),
        ", ".join(f"{key}={value}" for key, value in made.tags.items()),
        is_paired(run),
    )


def _sorted(lines: list[_Line], by: str) -> list[_Line]:
    """Return the lines in order; what is broken comes last."""
    name = by.removeprefix("-")
    if name not in _COLUMNS:
        raise UnknownName.of("column", name, _COLUMNS)
    found = sorted(lines, key=attrgetter(name), reverse=by.startswith("-"))
    return sorted(found, key=lambda line: bool(line.problem))


def _head(query: Query) -> list[Content]:
    """Return the heads of the columns, which sort by them; again, the other way round."""
    by = query.get("sort", "run")
    heads: list[Content] = ["as A", "as B"]
    for name in _COLUMNS:
        here = by.removeprefix("-") == name
        down = by.startswith("-")
        first = "-" + name if name in _NUMBERS or name == "recorded" else name
        turned = name if down else "-" + name
        link = href("/", **{**query, "sort": turned if here else first})
        sign = (" \u2193" if down else " \u2191") if here else ""
        order = ("descending" if down else "ascending") if here else ""
        heads.append(Head(dcc.Link(name + sign, href=link), order))
    return heads


def _nothing(library: Library) -> Content:
    return html.Div(
        [
            html.H1("No runs yet"),
            html.P(["There is no run in ", html.Code(str(library.root)), ". Record one:"]),
            html.Pre(f"ffn-probe record MODEL --data FILE --to {library.root / 'base'}"),
            html.P("It will appear here by itself.", className="dim"),
        ],
        className="empty",
    )


def _counted(lines: list[_Line]) -> str:
    text = f"{len(lines)} run" + "s" * (len(lines) > 1)
    for state, said in (("broken", "cannot be read"), ("open", "still open")):
        number = sum(line.state == state for line in lines)
        text += f", {number} of them {said}" if number else ""
    return text


def _choice(chosen: dict[str, str]) -> Content:
    """Return what was chosen and, when both sides are, the way to their comparison."""
    said: list[Content] = [
        html.Span([text, html.B(chosen[side], className=side) if chosen[side] else _NONE])
        for side, text in (("a", "A, reference: "), ("b", "B, candidate: "))
    ]
    if all(chosen.values()):
        said.append(dcc.Link("Compare", href=href("/compare", **chosen), className="button"))
        swapped = href("/", a=chosen["b"], b=chosen["a"])
        said.append(dcc.Link("\u21c4 swap A and B", href=swapped))
    return html.Div(said, className="choice", role="status")


def _row(line: _Line, chosen: dict[str, str]) -> list[Content]:
    if line.problem:
        reason = html.Td(shortened(line.problem), className="reason", colSpan=len(_COLUMNS) - 2)
        return ["", "", line.run, html.B("\u2715 broken", className="FAIL"), reason]
    pick: list[Content] = [_pick(line.run, side, chosen) for side in "ab"]
    if line.paired:
        title = "two models on the same inputs; it is no side of a comparison"
        pick = [html.Span("paired", className="dim", title=title), ""]
    where = "/explain" if line.paired else "/run"
    return [
        *pick,
        dcc.Link(line.run, href=href(where, run=line.run, **chosen)),
        _state(line),
        *(_cell(getattr(line, name), name) for name in _COLUMNS[2:-1]),
        html.Td(shortened(line.tags) or "-", className="tags"),
    ]


def _state(line: _Line) -> Content:
    if line.state == "closed":
        return "closed"
    title = "its recorder is at work, or was killed; what is complete is shown"
    return html.Span("\u25cf open", className="WARN", title=title)


def _cell(value: str | int, name: str) -> str:
    return f"{value:,}" if name in _NUMBERS else str(value) or "-"


def _pick(name: str, side: str, chosen: dict[str, str]) -> Content:
    """Return the link that chooses a run for a side, or takes the choice back."""
    mine = chosen[side] == name
    where = href("/", **(chosen | {side: "" if mine else name}))
    role = {"a": "reference", "b": "candidate"}[side]
    said = f"{name}: not the {role} after all" if mine else f"{name} as the {role}"
    return dcc.Link(
        side.upper(), href=where, className=f"pick {side}" + " chosen" * mine, title=said
    )


def _kinds(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "-"

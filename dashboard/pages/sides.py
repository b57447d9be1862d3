"""What the pages about the inside of a block share: one or two runs, a layer, its expert."""

from collections.abc import Sequence
from dataclasses import dataclass

from dash import dcc, html

from dashboard.components.chosen import chosen
from dashboard.components.control import Option
from dashboard.components.page import Content, Page, Query, href, nothing, page
from dashboard.components.table import table
from dashboard.data import Library, is_paired
from ffn_probe.anatomy import Block
from ffn_probe.compare.align import align
from ffn_probe.errors import CompareError, UnknownName
from ffn_probe.figures.theme import CANDIDATE, REFERENCE
from ffn_probe.runs import Run


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: its letter, its id, what it holds."""

    letter: str
    id: str
    run: Run

    @property
    def color(self) -> str:
        """Blue for the reference, orange for the candidate."""
        return REFERENCE if self.letter == "a" else CANDIDATE

    @property
    def title(self) -> str:
        """The letter and the id, as charts and tables name it."""
        return f"{self.letter.upper()} {self.id}"

    @property
    def blocks(self) -> dict[str, Block]:
        """The blocks by name."""
        return {block.name: block for block in self.run.blocks}


def sides_of(library: Library, query: Query) -> tuple[Side, ...]:
    """Return the runs `a` and `b` of an address; only the first when both are the same.

    Raises:
        UnknownName: there is no such run, or it is of two models.
        RunError: it cannot be read.
    """
    found: list[Side] = []
    for letter in "ab":
        id_ = query.get(letter, "")
        if not id_ or any(side.id == id_ for side in found):
            continue
        run = library.run(id_)
        if is_paired(run):
            raise UnknownName.of("run of one model", id_, singles(library))
        found.append(Side("b" if found else "a", id_, run))
    return tuple(found)


def singles(library: Library) -> list[str]:
    """Return the ids of the runs of one model."""
    return [e.id for e in library.entries() if e.run is not None and not is_paired(e.run)]


def choice(library: Library, path: str, title: str) -> Page:
    """Return the page that stands until a run is chosen."""
    found = singles(library)
    trail = [("Runs", href("/"))]
    if not found:
        how = f"ffn-probe record MODEL --data FILE --to {library.root / 'base'}"
        return page(
            title, trail, nothing("No run yet", "Record one:", command=how), command=how
        )
    rows = [[dcc.Link(id_, href=href(path, a=id_))] for id_ in found]
    return page(title, trail, html.H1(title),
                table(("run",), rows, caption="Choose a run of one model"))  # fmt: skip


def crumbs(sides: Sequence[Side]) -> list[tuple[str, str]]:
    """Return the way back: the runs, and the comparison or the run."""
    trail = [("Runs", href("/", **{side.letter: side.id for side in sides}))]
    if len(sides) > 1:
        where = href("/compare", a=sides[0].id, b=sides[1].id)
        return [*trail, (f"{sides[0].id} against {sides[1].id}", where)]
    return [*trail, (sides[0].id, href("/run", run=sides[0].id))]


def heading(title: str, sides: Sequence[Side]) -> list[Content]:
    """Return the title, and beneath it which run is blue and which is orange."""
    names: list[Content] = []
    for side in sides:
        names += [" against "] if names else []
        names.append(html.B(side.title, className=side.letter))
    notes = [html.Div(f"{side.title}: {text}", className="note")
             for side in sides for text in side.run.problems]  # fmt: skip
    return [html.H1(title), html.P(names), *notes]


# ---- blocks -----------------------------------------------------------------------------


def block_options(blocks: Sequence[Block]) -> list[Option]:
    """Return (value, text) of blocks: their layer; a layer of several blocks names them."""
    layers = [block.layer for block in blocks]
    return [
        (str(block.layer), f"layer {block.layer}")
        if layers.count(block.layer) == 1
        else (block.name, f"layer {block.layer}, {block.name}")
        for block in blocks
    ]


def block_of(blocks: Sequence[Block], query: Query, default: str = "") -> tuple[Block, str]:
    """Return the block that the address names by `layer`, and the value that names it.

    Raises:
        UnknownName: there is no such layer.
    """
    options = block_options(blocks)
    value = chosen(query, "layer", options, default)
    names = [name for name, _ in options]
    return blocks[names.index(value)], value


def partner(library: Library, sides: Sequence[Side], block: Block) -> Block | None:
    """Return the block of the second run that a block of the first is compared with."""
    if len(sides) < 2:
        return None
    ids = [side.id for side in sides]

    def pairs() -> dict[str, str]:
        try:
            found = align(sides[0].run, sides[1].run).pairs
        except CompareError:
            return {}
        return {pair.a[0].block: pair.b[0].block for pair in found}

    return sides[1].blocks.get(library.once("partners", ids, pairs).get(block.name, ""))


def steps(path: str, query: Query, options: Sequence[Option], value: str) -> Content:
    """Return links to the layer before and after, which `[` and `]` follow."""
    names = [name for name, _ in options]
    at = names.index(value)
    links = [
        dcc.Link(text.format(options[to][1]), href=href(path, **{**query, "layer": names[to]}),
                 className=f"chip {kind}")
        for to, text, kind in ((at - 1, "\u2190 {}", "prev-layer"),
                               (at + 1, "{} \u2192", "next-layer"))
        if 0 <= to < len(names)
    ]  # fmt: skip
    return html.Div(links, className="chips") if links else None


def roomy(chart: Content) -> Content:
    """Return a chart that a phone scrolls sideways, for what would be squeezed there."""
    return html.Div(chart, className="map")

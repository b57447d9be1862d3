"""Explain: what made the candidate of a paired run drift, from the model down to a stage."""

import shlex
from dataclasses import replace

from dash import dcc, html

from dashboard.components.page import Page, Query, href, nothing, page
from dashboard.components.table import table
from dashboard.data import Library, is_paired
from dashboard.pages.explained_block import block_part
from dashboard.pages.explained_model import (
    depth_part,
    factorials_part,
    head,
    hypotheses_part,
    missing_part,
    output_part,
    patching_part,
    theory_part,
)
from ffn_probe.attribution import Attribution, BlockAttribution
from ffn_probe.errors import UnknownName
from ffn_probe.report.paired import Story
from ffn_probe.report.paired_tables import tables_of
from ffn_probe.report.paired_words import worst
from ffn_probe.runs import Run

_COMMAND = "ffn-probe replay REFERENCE CANDIDATE --data FILE --to {to}"


def explain(library: Library, query: Query) -> Page:
    """Return the story of the paired run `run`, with one of its blocks (`block`) in detail."""
    name = query.get("run", "")
    if not name:
        return _choice(library)
    run = library.run(name)
    if not is_paired(run):
        return _telemetry(library, name)
    story = library.once("story", [name], lambda: Story.of(run))
    shown = story_page(story, name, block=query.get("block", ""), run=run)
    tables = library.once("story tables", [name], lambda: tables_of(story))
    return replace(shown, data=tables)


def story_page(story: Story, name: str, *, block: str = "", run: Run | None = None) -> Page:
    """Return the page of a story; `run` is where it was read, if that is known.

    Raises:
        UnknownName: the story has no such block.
    """
    told = story.attribution
    shown = _chosen(told, block)
    return page(
        f"Why did {name} drift?",
        [("Runs", href("/")), (name, href("/run", run=name))],
        *head(story, name),
        *output_part(told),
        *hypotheses_part(told),
        *depth_part(told, shown),
        *(block_part(story, shown, name) if shown else ()),
        *patching_part(told, shown),
        *factorials_part(told.factorial),
        *theory_part(told),
        *missing_part(told, run.manifest.paired.get("options", {}) if run else {}),
        command=f"ffn-probe show {shlex.quote(run.path)}" if run else "",
        report=href("/report/attribution", run=name),
    )


# ---- which run, which block -------------------------------------------------------------


def _choice(library: Library) -> Page:
    """Return the paired runs to choose from, or how to make one."""
    found = [e.id for e in library.entries() if e.run is not None and is_paired(e.run)]
    if not found:
        how = _COMMAND.format(to=_quoted(library, "pair"))
        text = "No run of this folder holds two models on the same inputs. Make one:"
        return page("Explain", [("Runs", href("/"))], html.H1("Explain"),
                    nothing("Nothing to explain yet", text,
                    command=how), command=how)  # fmt: skip
    rows = [[dcc.Link(id_, href=href("/explain", run=id_))] for id_ in found]
    return page(
        "Explain", [("Runs", href("/"))], html.H1("Which run is to be explained?"),
        table(("paired run",), rows, caption="Runs of two models on the same inputs"),
    )  # fmt: skip


def _telemetry(library: Library, name: str) -> Page:
    """Return the page of a run of one model: why nothing is explained, and what to do."""
    how = _COMMAND.format(to=_quoted(library, "pair"))
    swap = "ffn-probe replay MODEL --swap norm=rmsnorm --data FILE --to "
    swap += _quoted(library, "swap")
    others = [
        [dcc.Link(e.id, href=href("/explain", run=e.id))]
        for e in library.entries()
        if e.run is not None and is_paired(e.run)
    ]
    listed = table(("paired run",), others, caption="Paired runs of this folder")
    return page(
        f"Explain {name}",
        [("Runs", href("/")), (name, href("/run", run=name))],
        html.H1(f"Explain {name}"),
        nothing(
            "This run holds one model",
            f"{name} is the telemetry of one model. What made another one drift is told by a "
            "paired run: both models on the same inputs, part by part. Make one:",
            [html.Code(how), " (add --autopsy to look for a known bug)"],
            ["or, to see what a swap would do to one model:"],
            command=swap,
        ),
        listed if others else None,
        command=how,
    )


def _quoted(library: Library, folder: str) -> str:
    """Return a folder beside the runs as a shell takes it."""
    return shlex.quote(str(library.root / folder))


def _chosen(told: Attribution, name: str) -> BlockAttribution | None:
    """Return the block of that name; without a name where the error starts, else the worst."""
    named = {block.block: block for block in told.blocks}
    if name:
        if name not in named:
            raise UnknownName.of("block", name, named, "See the table of blocks.")
        return named[name]
    if told.first_bad is not None and told.first_bad[1] in named:
        return named[told.first_bad[1]]
    return next(iter((*worst(told, 1), *told.blocks)), None)

"""The commands and their options. Nothing heavy is imported before a command runs."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ffn_probe.anatomy import ROLES
from ffn_probe.cli.guard import INTERRUPTED, Commands
from ffn_probe.cli.options import (
    WATCHED,
    AsJson,
    Autopsy,
    Batches,
    Candidate,
    CandidateDtype,
    CandidateModel,
    Data,
    Device,
    Dtype,
    Length,
    MappingFile,
    Model,
    Noise,
    PairBlocks,
    Patch,
    Port,
    Random,
    Reference,
    Repeat,
    RunFolder,
    RunMapping,
    Sequences,
    SwapText,
    Tags,
    Threshold,
)
from ffn_probe.cli.parsing import listed, numbers_in, roles_in, rows_in, tags_in, thresholds_in

app = typer.Typer(
    name="ffn-probe",
    cls=Commands,
    help="Telemetry and drift diagnostics for the feed-forward blocks of PyTorch transformers.",
    epilog="Exit codes: 0 done and no drift, 1 drift (compare, check), 2 error, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(value: bool) -> bool:  # noqa: FBT001 - typer's callback
    """Print the version and leave when asked for it."""
    if value:
        from ffn_probe import __version__

        typer.echo(f"ffn-probe {__version__}")
        raise typer.Exit
    return value


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Telemetry and drift diagnostics for the feed-forward blocks of PyTorch transformers."""


@app.command()
def scan(
    model: Model,
    data: Data = None,
    random: Random = False,
    dtype: Dtype = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Find the feed-forward blocks of a model and say what was skipped and why."""
    from ffn_probe.cli.scanning import print_scan

    print_scan(model, data=data, random=random, dtype=dtype, device=device, as_json=as_json)


@app.command()
def record(  # noqa: PLR0913, PLR0917 - the options of a recording
    model: Model,
    to: Annotated[
        Path, typer.Option(metavar="RUN", help="the folder of the run; must not exist")
    ],
    data: Data = None,
    batches: Batches = None,
    sequences: Sequences = 4,
    length: Length = 256,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            rich_help_panel=WATCHED,
            help="names, globs or layers (-1: the last), with commas or given again",
        ),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLES", rich_help_panel=WATCHED, help=", ".join(ROLES)),
    ] = None,
    experts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBERS", rich_help_panel=WATCHED, help="experts of a mixture: 0,1,7"
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(min=1, metavar="N", rich_help_panel=WATCHED, help="every n-th batch"),
    ] = 1,
    rows: Annotated[
        str,
        typer.Option(metavar="N", rich_help_panel=WATCHED, help="sampled rows a call, or all"),
    ] = "512",
    window: Annotated[
        int, typer.Option(min=1, metavar="N", rich_help_panel=WATCHED, help="batches a window")
    ] = 64,
    bits: Annotated[
        int,
        typer.Option(
            min=1,
            max=7,
            metavar="1..7",
            rich_help_panel=WATCHED,
            help="mantissa bits of the histograms",
        ),
    ] = 7,
    seed: Annotated[
        int,
        typer.Option(metavar="N", rich_help_panel=WATCHED, help="seed of the row sampling"),
    ] = 0,
    allow_flagged: Annotated[
        bool,
        typer.Option(
            "--allow-flagged",
            rich_help_panel=WATCHED,
            help="also blocks that scan flags as not reproduced",
        ),
    ] = False,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", rich_help_panel=WATCHED, help="stored in the run; repeatable"
        ),
    ] = None,
    random: Random = False,
    dtype: Dtype = None,
    device: Device = "cpu",
) -> None:
    """Run a model over batches and record what flows through its FFNs.

    ffn-probe record my.model:factory --to runs/base

    ffn-probe record ./llama --data book.txt --batches 32 --to runs/base
    """
    options = {
        "blocks": listed(blocks), "roles": roles_in(roles), "experts": numbers_in(experts),
        "every": every, "rows": rows_in(rows), "window": window, "bits": bits, "seed": seed,
        "allow_flagged": allow_flagged, "tags": tags_in(tag),
        "command": shlex.join(["ffn-probe", *sys.argv[1:]]),
    }  # fmt: skip
    from ffn_probe.cli.recording import print_recording

    print_recording(
        model,
        to=to, data=data, batches=batches, sequences=sequences, length=length,
        random=random, dtype=dtype, device=device, options=options,
    )  # fmt: skip


@app.command()
def show(
    run: RunFolder,
    measure: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="print this measure of every layer and role"),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, metavar="N", help="sites a measure")] = 3,
    as_json: AsJson = False,
) -> None:
    """Print what a run holds: its worst sites; of a paired run, what made it drift."""
    from ffn_probe.cli.showing import print_run

    print_run(run, measure=measure, worst=worst, as_json=as_json)


@app.command()
def compare(
    a: Reference,
    b: Candidate,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="also write drift.html, .md, .json, .pdf or a folder"
        ),
    ] = None,
    repeat: Repeat = None,
    mapping: RunMapping = None,
    threshold: Threshold = None,
    worst: Annotated[int, typer.Option(min=1, metavar="N", help="sites to print")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare two runs; exits with 1 when something drifted."""
    from ffn_probe.cli.comparing import print_drift

    status = print_drift(
        a, b,
        out=out, repeat=repeat, mapping=mapping, thresholds=thresholds_in(threshold),
        worst=worst, as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(status)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="one: what it holds, or of a paired run why it drifted; more: each against "
            "the first",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="a file .html, .md, .json, .pdf, .svg, .png, or a folder of all with the "
            "tables; default: drift.html, telemetry.html, attribution.html or report.html",
        ),
    ] = None,
    repeat: Repeat = None,
    mapping: RunMapping = None,
    threshold: Threshold = None,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", help="charts of the HTML answer to the pointer (5 MB)"),
    ] = False,
    png: Annotated[
        bool, typer.Option("--png", help="a folder's charts as PNG, too (needs Chromium)")
    ] = False,
) -> None:
    """Write what a run holds, or how it drifted from the first, as a report.

    ffn-probe report runs/base

    ffn-probe report runs/base runs/new --to drift.pdf

    ffn-probe report runs/base runs/a runs/b runs/pair --to report.html
    """
    from ffn_probe.cli.reporting import write_report

    write_report(
        runs, to,
        thresholds=thresholds_in(threshold), mapping=mapping, repeat=repeat,
        interactive=interactive, png=png,
    )  # fmt: skip


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - the options of a replay
    ref: Annotated[
        str,
        typer.Argument(metavar="REF", help="the model that is right, named as record does"),
    ],
    to: Annotated[
        Path, typer.Option(metavar="RUN", help="the folder of the run; must not exist")
    ],
    cand: CandidateModel = None,
    data: Data = None,
    batches: Batches = None,
    sequences: Sequences = 4,
    length: Length = 256,
    swap: SwapText = None,
    autopsy: Autopsy = False,
    blocks: PairBlocks = None,
    mapping: MappingFile = None,
    noise: Noise = 4,
    patch: Patch = 2,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="also write a report .html, .md, .json or a folder"),
    ] = None,
    tag: Tags = None,
    random: Random = False,
    dtype: Dtype = None,
    candidate_dtype: CandidateDtype = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Run two models on the same batches and say what made the second one drift.

    ffn-probe replay my.model:reference my.model:port --autopsy --to runs/pair

    ffn-probe replay ./llama --data book.txt --swap norm=layernorm --to runs/swap
    """
    from ffn_probe.cli.replaying import Pair, print_replay

    pair = Pair(ref, cand, swap, data, batches, sequences, length, random, dtype,
                candidate_dtype, device)  # fmt: skip
    options = {
        "blocks": listed(blocks), "mapping": mapping, "tags": tags_in(tag),
        "command": shlex.join(["ffn-probe", *sys.argv[1:]]),
    }  # fmt: skip
    print_replay(
        pair, to=to, out=out, autopsy=autopsy, as_json=as_json, noise=noise, patch=patch,
        options=options,
    )  # fmt: skip


@app.command()
def check(  # noqa: PLR0913, PLR0917 - the options of a replay
    ref: Annotated[
        str,
        typer.Argument(metavar="REF", help="a paired run, or the model that is right"),
    ],
    budget: Annotated[
        Path,
        typer.Option(metavar="FILE", help='TOML with the limits: "out.sqnr_db" = ">= 40"'),
    ],
    cand: CandidateModel = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write JUnit XML")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write a summary in Markdown")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="RUN", help="keep the paired run in this folder")
    ] = None,
    data: Data = None,
    batches: Batches = None,
    sequences: Sequences = 4,
    length: Length = 256,
    swap: SwapText = None,
    autopsy: Autopsy = False,
    blocks: PairBlocks = None,
    mapping: MappingFile = None,
    noise: Noise = 4,
    random: Random = False,
    dtype: Dtype = None,
    candidate_dtype: CandidateDtype = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Judge a paired run, or replay two models and judge them; exits with 1 over budget.

    ffn-probe check my.model:reference my.model:port --budget budget.toml --junit drift.xml

    ffn-probe check runs/pair --budget budget.toml
    """
    from ffn_probe.cli.checking import check_models, check_run, is_run, no_candidate

    written = {"junit": junit, "markdown": markdown, "as_json": as_json}
    if cand is None and swap is None:
        if not is_run(ref):
            raise no_candidate(ref)
        raise typer.Exit(check_run(Path(ref), budget=budget, **written))
    from ffn_probe.cli.replaying import Pair

    pair = Pair(ref, cand, swap, data, batches, sequences, length, random, dtype,
                candidate_dtype, device)  # fmt: skip
    options = {
        "blocks": listed(blocks), "mapping": mapping,
        "command": shlex.join(["ffn-probe", *sys.argv[1:]]),
    }  # fmt: skip
    status = check_models(
        pair, budget=budget, to=to, autopsy=autopsy, noise=noise, options=options, **written
    )
    raise typer.Exit(status)


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="a folder with runs")],
    port: Port = 8050,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="the default is this machine only")
    ] = "127.0.0.1",
    token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="what every request has to bring; needed with another --host",
        ),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="a file with the token (or set FFN_PROBE_TOKEN)"),
    ] = None,
) -> None:
    """Serve the dashboard over a folder of runs, on this machine only by default."""
    from ffn_probe.cli.serving import serve

    serve(runs, host=host, port=port, token=token, token_file=token_file)


@app.command()
def demo(
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="where to write")] = Path("demo"),
    serve: Annotated[bool, typer.Option(help="serve the dashboard at the end")] = True,
    port: Port = 8050,
) -> None:
    """Record real models, compare, write a report and serve the dashboard (needs a clone)."""
    from ffn_probe.cli.demo import run_demo

    run_demo(to, serve=serve, port=port)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:  # while typer itself was at work
        sys.exit(INTERRUPTED)

"""The commands and their options. Nothing heavy is imported before a command runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ffn_probe.errors import FfnProbeError

app = typer.Typer(
    name="ffn-probe",
    help="Telemetry and drift diagnostics for the feed-forward blocks of PyTorch transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(
        help="package.module:factory, a folder with a Hugging Face model, or a model id"
    ),
]
Reference = Annotated[Path, typer.Argument(help="the run of the reference")]
Candidate = Annotated[Path, typer.Argument(help="the run of the candidate")]
Data = Annotated[
    str | None,
    typer.Option(help="batches: package.module:function, or an iterable of that name"),
]
Text = Annotated[
    Path | None, typer.Option(help="batches: a text file, tokenized by the model's tokenizer")
]
Random = Annotated[
    bool, typer.Option("--random", help="random weights from the configuration alone")
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="where the model runs: cpu, cuda, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    """Print the version and leave."""
    if value:
        from ffn_probe import __version__

        typer.echo(f"ffn-probe {__version__}")
        raise typer.Exit


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
    to: Annotated[Path, typer.Option(help="the folder of the run; must not exist")],
    data: Data = None,
    text: Text = None,
    batches: Annotated[
        int | None, typer.Option(min=1, help="stop after so many batches")
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="sequences a batch of --text")] = 4,
    length: Annotated[int, typer.Option(min=2, help="tokens a sequence of --text")] = 256,
    blocks: Annotated[
        list[str] | None, typer.Option(help="blocks: a glob of names or a layer ordinal")
    ] = None,
    roles: Annotated[
        list[str] | None, typer.Option(help="roles: gate, value, hidden, ...")
    ] = None,
    experts: Annotated[list[int] | None, typer.Option(help="experts of a mixture")] = None,
    every: Annotated[int, typer.Option(help="watch every n-th batch")] = 1,
    rows: Annotated[str, typer.Option(help="sampled rows a call, or all")] = "512",
    window: Annotated[int, typer.Option(help="batches a window")] = 16,
    bits: Annotated[int, typer.Option(help="mantissa bits of the histograms, 1..7")] = 7,
    seed: Annotated[int, typer.Option(help="seed of the row sampling")] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="key=value, stored in the run")] = None,
    random: Random = False,
    dtype: Dtype = None,
    device: Device = "cpu",
    allow_flagged: Annotated[
        bool, typer.Option("--allow-flagged", help="also watch blocks that were flagged")
    ] = False,
) -> None:
    """Run a model over batches and record what flows through its FFNs."""
    from ffn_probe.cli.recording import print_recording

    print_recording(
        model,
        to=to, data=data, text=text, batches=batches, sequences=sequences, length=length,
        random=random, dtype=dtype, device=device,
        options={
            "blocks": blocks or None, "roles": roles or None, "experts": experts or None,
            "every": every, "rows": int(rows) if rows.isdigit() else rows, "window": window,
            "bits": bits, "seed": seed, "allow_flagged": allow_flagged, "tags": _tags(tag),
            "command": " ".join(["ffn-probe", *sys.argv[1:]]),
        },
    )  # fmt: skip


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="the run")],
    measure: Annotated[
        str | None, typer.Option(help="print this measure of every layer and role")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="sites a measure")] = 3,
    as_json: AsJson = False,
) -> None:
    """Print what a run holds: its manifest, its blocks and its worst sites."""
    from ffn_probe.cli.showing import print_run

    print_run(run, measure=measure, worst=worst, as_json=as_json)


@app.command()
def compare(
    a: Reference,
    b: Candidate,
    out: Annotated[
        Path | None, typer.Option(help="also write drift.html, .md, .json or a folder")
    ] = None,
    repeat: Annotated[Path | None, typer.Option(help="a repeat of the reference")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="JSON file {block of a: block of b}")
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option(help="statistic=value instead of the default")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="sites to print")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare two runs; exits with 1 when something drifted."""
    from ffn_probe.cli.comparing import print_drift

    status = print_drift(
        a, b,
        out=out, repeat=repeat, mapping=mapping, thresholds=_thresholds(threshold),
        worst=worst, as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(status)


@app.command()
def report(
    a: Reference,
    b: Candidate,
    to: Annotated[Path, typer.Option(help="drift.html, .md, .json or a folder")] = Path(
        "drift.html"
    ),
) -> None:
    """Write the drift report of two runs and print its path."""
    from ffn_probe.cli.comparing import write_report

    write_report(a, b, to)


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(help="a folder with runs")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="port")] = 8050,
    host: Annotated[str, typer.Option(help="address; the default is this machine only")] = (
        "127.0.0.1"
    ),
    remote: Annotated[
        bool, typer.Option("--allow-remote", help="let --host be one that others can reach")
    ] = False,
) -> None:
    """Serve the dashboard over a folder of runs, on this machine only by default."""
    from ffn_probe.cli.serving import serve

    serve(runs, host=host, port=port, remote=remote)


@app.command()
def demo(
    to: Annotated[Path, typer.Option(help="the folder to write to")] = Path("demo"),
    serve: Annotated[bool, typer.Option(help="serve the dashboard at the end")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the dashboard")] = 8050,
) -> None:
    """Record real models, compare, write a report and serve the dashboard (needs a clone)."""
    from ffn_probe.cli.demo import run_demo

    run_demo(to, serve=serve, port=port)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except FfnProbeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _tags(given: list[str] | None) -> dict[str, str]:
    return dict(_pair(text, "--tag") for text in given or ())


def _thresholds(given: list[str] | None) -> dict[str, float] | None:
    found = {}
    for text in given or ():
        name, value = _pair(text, "--threshold")
        try:
            found[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"--threshold {text}: {value!r} is no number") from None
    return found or None


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise typer.BadParameter(f"{option} {text!r} is not name=value")
    return name, value

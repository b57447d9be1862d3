"""The options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

MODEL, BATCHES, WATCHED = "The model", "The batches", "What is recorded"
"""Under which heading of the help an option stands."""

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="package.module:factory (returns the model, or (model, batches)), a folder with a "
        "Hugging Face model, or a model id",
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="the folder of the run")]
Reference = Annotated[Path, typer.Argument(metavar="A", help="the run of the reference")]
Candidate = Annotated[Path, typer.Argument(metavar="B", help="the run of the candidate")]
Repeat = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="a repeat of the reference: the noise between runs"),
]
RunMapping = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="JSON: {block of A: block of B}, over the alignment"),
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="of a statistic, over its default; repeatable"),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        rich_help_panel=BATCHES,
        help="a text file (read by the model's tokenizer), or package.module:function that "
        "returns batches",
    ),
]
Random = Annotated[
    bool,
    typer.Option(
        "--random", rich_help_panel=MODEL, help="random weights; needs config.json alone"
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="DTYPE", rich_help_panel=MODEL, help="float32, bfloat16 or float16"),
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", rich_help_panel=MODEL, help="cpu, cuda, ...")
]
Batches = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", rich_help_panel=BATCHES, help="stop after so many batches"
    ),
]
Sequences = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=BATCHES, help="of a text: sequences a batch"
    ),
]
Length = Annotated[
    int,
    typer.Option(
        min=2, metavar="N", rich_help_panel=BATCHES, help="of a text: tokens a sequence"
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="stored in the run; repeatable"),
]
CandidateModel = Annotated[
    str | None,
    typer.Argument(
        metavar="CAND",
        show_default=False,
        help="the candidate, named as the reference is; left out with --swap",
    ),
]
SwapText = Annotated[
    str | None,
    typer.Option(
        "--swap",
        metavar="KEY=NAME,...",
        rich_help_panel=MODEL,
        help="norm=, activation=, gating=, dtype=, quantize=, blocks=, how=: what was swapped; "
        "without CAND it is applied to a copy of the reference",
    ),
]
CandidateDtype = Annotated[
    str | None,
    typer.Option(metavar="DTYPE", rich_help_panel=MODEL, help="of the candidate alone"),
]
PairBlocks = Annotated[
    list[str] | None,
    typer.Option(
        "--blocks",
        metavar="NAMES",
        rich_help_panel=WATCHED,
        help="of the reference: names, globs or layers (-1: the last)",
    ),
]
MappingFile = Annotated[
    Path | None,
    typer.Option(
        "--mapping",
        metavar="FILE",
        rich_help_panel=WATCHED,
        help="JSON: {block of REF: block of CAND}, over the alignment",
    ),
]
Noise = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=WATCHED, help="batches the noise floor is of"
    ),
]
Patch = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        rich_help_panel=WATCHED,
        help="batches on which single blocks are exchanged; 0: none",
    ),
]
Autopsy = Annotated[
    bool,
    typer.Option("--autopsy", rich_help_panel=WATCHED, help="also look for the bug"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="PORT", help="port of the dashboard")
]

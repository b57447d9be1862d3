"""`ffn-probe show`: the manifest of a run and its worst sites."""

import json
from pathlib import Path

import pandas as pd

from ffn_probe.anatomy import ROLES
from ffn_probe.cli.tables import console, number, plain, table
from ffn_probe.measures import measure
from ffn_probe.report.unusual import STANDOUT, most_unusual
from ffn_probe.runs import Run


def print_run(path: Path, *, measure: str | None, worst: int, as_json: bool) -> None:
    """Print a run, or one measure of it as layers times roles."""
    run = Run.open(path)
    if run.manifest.kind == "paired":
        from ffn_probe.cli.explaining import print_pair

        print_pair(run, measure=measure, as_json=as_json)
    elif measure is not None:
        print_measure(run, measure, as_json=as_json)
    elif as_json:
        print(json.dumps(as_dict(run, worst), indent=1))
    else:
        print_manifest(run)
        print_worst(run, worst)


def as_dict(run: Run, worst: int) -> dict[str, object]:
    """Return the manifest and the worst sites in JSON types."""
    frame = worst_sites(run, worst)
    return {
        "manifest": json.loads(run.manifest.to_json()),
        "problems": list(run.problems),
        "worst": json.loads(frame.to_json(orient="records")),
    }


def print_manifest(run: Run) -> None:
    """Print what was recorded, of which model, and how."""
    made, out = run.manifest, console()
    model = made.model
    kinds = sorted({f"{b.kind} {b.activation}, {b.norm.kind}" for b in run.blocks})
    lines = {
        "run": f"{run.path} ({made.state}, {made.kind}, schema {made.schema_version})",
        "created": made.created,
        "model": f"{model.get('class', '?')} {model.get('name', '')}".strip(),
        "weights": f"{_count(model.get('parameters'))} parameters, {model.get('dtype', '?')}",
        "blocks": f"{len(run.blocks)}: {'; '.join(kinds)}",
        "data": f"{made.steps} steps, {made.tokens:,} tokens, {made.windows} windows",
        "sampling": ", ".join(f"{k} {v}" for k, v in made.sampling.items()),
        "device": made.device,
        "versions": ", ".join(f"{k} {v}" for k, v in made.versions.items()),
        "tags": ", ".join(f"{k}={v}" for k, v in made.tags.items()),
    }
    for name, text in lines.items():
        if text:
            out.print(f"{name:9} {plain(text)}", highlight=False, markup=False)
    for problem in run.problems:
        out.print(f"{'note':9} {plain(problem)}", highlight=False, markup=False)


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def print_worst(run: Run, count: int) -> None:
    """Print the sites with the most unusual value of each measure."""
    frame = worst_sites(run, count)
    rows = []
    for name, value, unit, layer, role, expert, block in frame.itertuples(index=False):
        place = role + (f"#{expert}" if expert >= 0 else "")
        rows.append((measure(name).label, number(value), unit, str(layer), place, block))
    columns = ("measure", "value", "unit", "layer", "role", "block")
    console().print(table(columns, rows, right=("value", "layer"), title="worst sites"))


def worst_sites(run: Run, count: int) -> pd.DataFrame:
    """Return the `count` most unusual sites of each measure that tells of trouble."""
    return most_unusual(run.measures(STANDOUT), count)


def print_measure(run: Run, name: str, *, as_json: bool) -> None:
    """Print one measure as a table of layers and roles."""
    entry = measure(name)
    frame = run.measures([name])
    if as_json:
        print(frame.to_json(orient="records"))
        return
    roles = [r for r in (*ROLES, *sorted(set(frame["role"]))) if r in set(frame["role"])]
    roles = list(dict.fromkeys(roles))
    rows = []
    for key, part in frame.groupby(["layer", "block", "expert"]):
        layer, block, expert = (str(field) for field in key)
        values = dict(zip(part["role"], part["value"], strict=True))
        place = block if expert == "-1" else f"{block}#{expert}"
        rows.append((layer, place, *(number(values.get(role)) for role in roles)))
    title = f"{entry.label}: {entry.formula} [{entry.unit}]"
    columns = ("layer", "block", *roles)
    console().print(table(columns, rows, right=("layer", *roles), title=title))

"""A report as tidy tables, for spreadsheets and programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from ffn_probe.compare import Drift
from ffn_probe.report.paired_tables import tables_of as paired_tables
from ffn_probe.report.parts import Part, sides_of
from ffn_probe.report.telemetry import Telemetry

Tables = Mapping[str, pd.DataFrame]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_BLOCK = ("layer", "name", "kind", "layout", "activation", "d_model", "d_ff", "experts",
          "recompute_error")  # fmt: skip


def tables_of(parts: Sequence[Part]) -> Tables:
    """Return the tables of all parts by name; of several, rows begin with their part."""
    if len(parts) == 1:
        return _of(parts[0])
    found: dict[str, list[pd.DataFrame]] = {}
    for i, part in enumerate(parts, 1):
        reference, candidate = sides_of(part)
        for name, frame in _of(part).items():
            marks = {
                "report_part": i,
                "run_a": encodable(reference),
                "run_b": encodable(candidate),
            }
            made = pd.concat([pd.DataFrame(marks, frame.index), frame], axis=1)
            found.setdefault(name, []).append(made)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}


def _of(part: Part) -> Tables:
    if isinstance(part, Drift):
        return _drift(part)
    return _telemetry(part) if isinstance(part, Telemetry) else paired_tables(part)


def _drift(drift: Drift) -> Tables:
    rows = [tuple(map(encodable, row)) for row in drift.config_diff]
    settings = pd.DataFrame(rows, columns=["setting", "a", "b"])
    single = [
        {"only_in": side, **asdict(site)}
        for side, sites in (("a", drift.only_a), ("b", drift.only_b))
        for site in sites
    ]
    found = {"drift": drift.table(), "settings": settings, "one_sided": pd.DataFrame(single)}
    return {name: frame for name, frame in found.items() if len(frame) or name == "drift"}


def _telemetry(told: Telemetry) -> Tables:
    rows = [
        {
            **{name: getattr(block, name) for name in _BLOCK},
            "norm": block.norm.kind, "taps": len(block.taps), "flags": "; ".join(block.flags),
        }
        for block in told.run.blocks
    ]  # fmt: skip
    columns = ["layer", "block", "role", "expert", "measure", "value", "unit"]
    return {"measures": told.measures[columns], "recorded_blocks": pd.DataFrame(rows)}


def encodable(text: str) -> str:
    """Return text whose lone surrogates, out of a damaged name, are question marks."""
    return text.encode("utf-8", "replace").decode()


def to_csv(frame: pd.DataFrame) -> str:
    """Return CSV whose numbers read back as they were and whose cells are no formulas."""
    text: str = safe_cells(frame).to_csv(index=False, lineterminator="\n")
    return text


def to_parquet(frame: pd.DataFrame) -> bytes:
    """Return Parquet."""
    data: bytes = frame.to_parquet(index=False)
    return data


def safe_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a quote before text that a spreadsheet takes for a formula.

    Characters that do not print, such as ends of lines, stand as their escapes.
    """

    def safe(cell: object) -> object:
        if not isinstance(cell, str):
            return cell
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in cell)
        return "'" + text if cell.lstrip(" ").startswith(_FORMULA) else text

    return frame.assign(**{name: frame[name].map(safe) for name in _texts(frame)})


def _texts(frame: pd.DataFrame) -> list[str]:
    """Return the columns that may hold text."""
    numeric = frame.select_dtypes(["number", "bool"]).columns
    return [name for name in frame.columns if name not in set(numeric)]

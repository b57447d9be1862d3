"""The largest values and channels of a site in both runs, with their addresses."""

import numpy as np
import pandas as pd
from dash import html

from dashboard.components.page import Content
from dashboard.components.table import table
from ffn_probe.compare import Drift, SiteDrift
from ffn_probe.compare.evidence import Evidence
from ffn_probe.compare.panel import log2_ratio
from ffn_probe.compare.top_values import top_values
from ffn_probe.figures.numbers import number
from ffn_probe.runs import Run
from ffn_probe.sketches import Channels

_TOP = 10
_CHANNELS = 12
_ADDRESS = ("step", "sequence", "position", "token", "channel")


def extremes_frame(drift: Drift, site: SiteDrift, runs: tuple[Run, Run]) -> pd.DataFrame:
    """Return the largest values of both runs by rank; -1 stands for an unknown address."""
    frames = []
    for side, run, sites in zip("ab", runs, drift.sources(site), strict=True):
        top = top_values(run, sites).top
        texts = run.manifest.vocabulary
        frame = pd.DataFrame({"side": side, "rank": np.arange(1, top.size + 1)})
        frame["value"] = top["value"]
        for name in _ADDRESS:
            frame[name] = top[name]
        frame["text"] = [texts.get(str(token), "") for token in top["token"].tolist()]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def extremes_tables(frame: pd.DataFrame, names: tuple[str, str]) -> Content:
    """Return the largest values of either run side by side."""
    return html.Div(
        [
            html.Div(_top(frame[frame.side == side].head(_TOP), name, side))
            for side, name in zip("ab", names, strict=True)
        ],
        className="pictures",
    )


def _top(frame: pd.DataFrame, name: str, side: str) -> Content:
    if frame.empty:
        return html.P([html.Span(name, className=side), ": no extremes were recorded."])
    rows = [
        [
            number(row["value"], signed=True), _known(row["step"]), _known(row["sequence"]),
            _known(row["position"]), _token(row["token"], row["text"]), _known(row["channel"]),
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    head = ("value", "step", "sequence", "position", "token", "channel")
    caption = f"Largest |x| of {name}, in the unit of the tensor."
    return table(head, rows, caption=caption, right=(0, 1, 2, 3, 5))


def _known(address: int) -> str:
    return "-" if address < 0 else str(address)


def _token(token: int, text: str) -> str:
    return "-" if token < 0 else f"{token} {text!r}" if text else str(token)


# ---- channels ---------------------------------------------------------------------------


def channels_frame(a: Evidence, b: Evidence) -> pd.DataFrame | None:
    """Return RMS and absmax of every channel of both runs, the most changed first.

    None where a run kept none, or the two have unlike numbers of them.
    """
    one, other = a.channels, b.channels
    if one is None or other is None or one.count.size != other.count.size:
        return None
    left, right = _rms(one), _rms(other)
    octaves = log2_ratio(left, right)
    order = np.argsort(-np.nan_to_num(np.abs(octaves), nan=-1.0), kind="stable")
    return pd.DataFrame({
        "channel": order, "rms_a": left[order], "rms_b": right[order],
        "octaves": octaves[order], "absmax_a": one.absmax[order],
        "absmax_b": other.absmax[order],
    })  # fmt: skip


def _rms(channels: Channels) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(channels.mean**2 + channels.m2 / channels.count))


def channels_table(frame: pd.DataFrame | None) -> Content:
    """Return the channels whose RMS changed most, and the largest ones."""
    if frame is None:
        return html.P(
            "No channels to compare: a run kept none, or the two have unlike numbers of them."
        )
    largest = frame[["rms_a", "rms_b"]].max(axis=1).sort_values(ascending=False, kind="stable")
    parts = [
        ("whose RMS changed most", frame.head(_CHANNELS)),
        ("with the largest RMS", frame.loc[largest.index[:_CHANNELS]]),
    ]
    return html.Div([_channels(text, some) for text, some in parts], className="pictures")


def _channels(text: str, frame: pd.DataFrame) -> Content:
    rows = [
        [
            str(int(row["channel"])), number(row["rms_a"]), number(row["rms_b"]),
            number(row["octaves"], signed=True), number(row["absmax_a"]),
            number(row["absmax_b"]),
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    head = ("channel", "RMS A", "RMS B", "octaves", "absmax A", "absmax B")
    caption = f"The {len(rows)} channels {text}."
    return table(head, rows, caption=caption, right=range(6))

"""The frame of a report: one HTML document without script or request, and its tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version

from ffn_probe.figures.theme import SIGN
from ffn_probe.report.style import STYLE
from ffn_probe.report.words import shortened

SIGNED = {status: f"{SIGN[status]} {status}" for status in ("PASS", "WARN", "FAIL")}
"""A status with its sign; a table colours these words in its first column."""

_CLASSES = {text: status for status, text in SIGNED.items()}
_CSP = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """Return one HTML document; `title` is text, `parts` are HTML, empty ones left out."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def prose(text: str) -> str:
    """Return text with `names` in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def written_by() -> str:
    """Return the last line of a report: what wrote it."""
    try:
        made = f"ffn-probe {version('ffn-probe')}"
    except PackageNotFoundError:
        made = "ffn-probe"
    return f'<p class="dim">Report by {escape(made)}.</p>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    numbers: Iterable[int] = (),
    *,
    wrap: bool = False,
    classes: Mapping[str, str] = _CLASSES,
) -> str:
    """Return a table of text; the columns in `numbers` are aligned to the right.

    A dense table never breaks a cell; with `wrap` its cells break where they must. A cell of
    the first column whose text is in `classes` gets that colour.
    """
    right = set(numbers)

    def cell(tag: str, i: int, text: str, extra: str = "") -> str:
        status = classes.get(text) if i == 0 else None
        kind = ' class="n"' if i in right else f' class="s {status}"' if status else ""
        return f"<{tag}{kind}{extra}>{escape(shortened(text))}</{tag}>"

    top = "".join(cell("th", i, text, ' scope="col"') for i, text in enumerate(head))
    body = "\n".join(
        "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    style = "" if wrap else ' class="dense"'
    return (
        f'<div class="wide"><table{style}>{title}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )

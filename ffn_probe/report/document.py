"""The frame of a report: one HTML document without request, and its tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ffn_probe.figures.theme import SIGN
from ffn_probe.report.style import STYLE
from ffn_probe.report.words import legible, shortened

SIGNED = {status: f"{SIGN[status]} {status}" for status in ("PASS", "WARN", "FAIL")}
"""A status with its sign; a table colours these words in its first column."""

CLASSES: Mapping[str, str] = {text: status for status, text in SIGNED.items()}
"""What a first column says -> the class of its colour."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may do: nothing but use its own style sheet."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Characters that show nothing, turn text around, or cannot be written as UTF-8."""


def document(
    title: str, parts: Iterable[str], *, policy: str = POLICY, after: Iterable[str] = ()
) -> str:
    """Return one HTML document.

    Args:
        title: text.
        parts: HTML; empty ones are left out.
        policy: what the page may do.
        after: HTML behind the parts that is taken as it is: scripts.
    """
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"{visible(body)}{''.join(after)}\n</body></html>\n"
    )


def visible(markup: str) -> str:
    """Return markup in which what no one would see is a replacement character."""
    return _UNSEEN.sub("\ufffd", markup)


def text(words: str) -> str:
    """Return text as HTML, on one line, what does not print as its escape."""
    return escape(legible(words))


def prose(words: str) -> str:
    """Return text with `names` in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(words))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    numbers: Iterable[int] = (),
    *,
    wrap: bool = False,
    classes: Mapping[str, str] = CLASSES,
) -> str:
    """Return a table of text; the columns in `numbers` are aligned to the right.

    A dense table never breaks a cell; with `wrap` its cells break where they must. A cell of
    the first column whose text is in `classes` gets that colour.
    """
    right = set(numbers)

    def cell(tag: str, i: int, words: str, extra: str = "") -> str:
        status = classes.get(words) if i == 0 else None
        kind = ' class="n"' if i in right else f' class="s {status}"' if status else ""
        return f"<{tag}{kind}{extra}>{escape(shortened(words))}</{tag}>"

    top = "".join(cell("th", i, words, ' scope="col"') for i, words in enumerate(head))
    body = "\n".join(
        "<tr>" + "".join(cell("td", i, words) for i, words in enumerate(row)) + "</tr>"
        for row in rows
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    style = "" if wrap else ' class="dense"'
    return (
        f'<div class="wide"><table{style}>{title}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )

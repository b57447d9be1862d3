"""The parts that every picture has: its frame, what shows on hover, and a file of its own."""

import re
from html import escape

from ffn_probe.report.style import INKS, TYPE
from ffn_probe.report.words import legible

_ILLEGAL = re.compile("[^\\t\\n\\r\\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SIZE = re.compile(r'viewBox="0 0 (\d+) (\d+)"')


def opened(width: float, height: float, title: str) -> str:
    """Return the start of a picture; `title` is what a reader hears who sees none."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(legible(title))}">'
    )


def hover(x: float, y: float, width: float, height: float, words: str) -> str:
    """Return an unseen box that shows words where the pointer rests on it."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="none" pointer-events="all"><title>{escape(legible(words))}</title></rect>'
    )


def standalone(svg: str) -> str:
    """Return a picture as a file of its own: with its colours, light and dark, as XML."""
    start, _, rest = svg.partition(">")
    style = f"<style>{INKS}{TYPE}</style>"
    ground = '<rect width="100%" height="100%" style="fill:var(--back)"/>'
    made = f'{start} xmlns="http://www.w3.org/2000/svg">{style}{ground}{rest}'
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _ILLEGAL.sub("\ufffd", made) + "\n"


def size(svg: str) -> tuple[int, int]:
    """Return width and height of a picture, in pixels."""
    found = _SIZE.search(svg)
    return (int(found[1]), int(found[2])) if found else (0, 0)

"""The style of the dashboard: the report's sheet, with a scheme that can be switched.

Colours are `light-dark(...)` pairs, so that the system's preference and the switch (which
sets `color-scheme`) both work; `assets/dashboard.css` holds the rest.
"""

from ffn_probe.figures.theme import WORDS
from ffn_probe.report.style import STYLE

_VARIABLES = """
:root { color-scheme: light dark; --ink: light-dark(#1d2126, #e6e9ed);
  --dim: light-dark(#5c6570, #9aa4af); --line: light-dark(#d9dde2, #39414a);
  --back: light-dark(#fff, #14181d); --card: light-dark(#f5f6f8, #1d2329);
  --link: light-dark(#2563a8, #7db4f0); --warn: light-dark(#a87100, #d9a441) }
:root[data-scheme="light"] { color-scheme: light }
:root[data-scheme="dark"] { color-scheme: dark }
"""


def _words() -> str:
    lines = []
    for name, (light, dark) in WORDS.items():
        color = f"light-dark({light}, {dark})"
        lines.append(f".{name} {{ color: {color} }}")
        lines.append(f".banner.{name} {{ border-color: {color}; color: var(--ink) }}")
    return "\n".join(lines)


SHEET = f"{STYLE}\n@supports (color: light-dark(#fff, #000)) {{\n{_VARIABLES}{_words()}\n}}\n"
"""The sheet that stands in the page; assets come after it."""

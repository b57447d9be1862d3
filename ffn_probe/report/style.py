"""The style sheet of the HTML report: light, dark, narrow, printed."""

from ffn_probe.figures.theme import WORDS

INKS = """
:root { color-scheme: light dark; --ink: #1d2126; --dim: #5c6570; --line: #d9dde2;
  --back: #fff; --card: #f5f6f8; --warn: #a87100 }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --dim: #9aa4af;
  --line: #39414a; --back: #14181d; --card: #1d2329 } }
"""
"""The colours of a page or a picture, light (also on paper) and dark."""

TYPE = """
svg { display: block; height: auto }
svg text { font: 11.5px system-ui, sans-serif; fill: var(--ink) }
svg .dim { fill: var(--dim) }
svg .mid { text-anchor: middle }
svg .end { text-anchor: end }
svg .on-pale { font-weight: 700; fill: #222 }
svg .on-dark { font-weight: 700; fill: #fff }
svg .in-pale { fill: #222 }
svg .in-dark { fill: #fff }
svg .floor { fill: var(--dim); opacity: .28 }
svg .grid { stroke: var(--line); stroke-width: 1 }
.hatch0 { fill: var(--card) }
.hatch1 { fill: var(--line) }
"""
"""What is drawn in a picture."""

_SHEET = """
* { box-sizing: border-box }
body { margin: 0 auto; padding: 24px 28px 64px; max-width: 1120px; color: var(--ink);
  background: var(--back); font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 22px; margin: 0 0 4px }
h2 { font-size: 17px; margin: 34px 0 8px }
h3 { font-size: 15px; margin: 26px 0 6px }
p { margin: 6px 0 }
code { font: 13px ui-monospace, Menlo, monospace }
pre { background: var(--card); border-radius: 4px; padding: 10px 14px; margin: 8px 0;
  overflow-x: auto; white-space: pre-wrap }
.dim { color: var(--dim) }
.banner, .note { background: var(--card); border-left: 6px solid var(--line);
  border-radius: 4px }
.banner { padding: 12px 18px; margin: 16px 0; font-size: 16px }
.banner p:first-of-type { display: inline; font-weight: 600 }
.banner b { margin-right: 8px; white-space: nowrap }
.note { padding: 4px 14px; margin: 6px 0; border-left: 4px solid var(--warn) }
.counts { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr));
  gap: 10px }
.counts div { background: var(--card); border-radius: 6px; padding: 8px 12px;
  font-size: 13.5px }
.counts b { display: block; font-size: 18px }
.note::first-letter { text-transform: uppercase }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 13.5px }
caption { text-align: left; color: var(--dim); padding: 2px 0 6px;
  max-width: calc(100vw - 30px) }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; min-width: 3em }
th { font-weight: 600; white-space: nowrap }
td:first-child { min-width: 7em; overflow-wrap: normal }
.dense td:first-child { min-width: 0 }
.dense th, .dense td { white-space: nowrap; overflow-wrap: normal }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.s { white-space: nowrap; font-weight: 600 }
.pictures { display: grid; grid-template-columns:
  repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 22px }
.pictures svg { width: 100% }
figure { margin: 0; break-inside: avoid; min-width: 0 }
figcaption { font-size: 13.5px; margin-bottom: 4px }
details { margin: 8px 0 }
.static[hidden] { display: none }
summary { cursor: pointer }
.parts { display: flex; flex-wrap: wrap; gap: 6px 22px; margin: 14px 0 }
.parts a { color: inherit; text-underline-offset: 3px }
.part { border-top: 1px solid var(--line); margin: 26px 0 }
.part > summary { margin: 14px 0 0 }
.part > summary h2 { display: inline; margin: 0 }
@media (max-width: 600px) { body { padding: 16px 14px 48px } }
@media print { .static[hidden] { display: block } .plot { display: none } }
@media print { body { max-width: none; padding: 0; font-size: 11px }
  h2, h3, h2 + p, h3 + p { break-after: avoid } tr, .note, .banner { break-inside: avoid }
  table, figcaption, .counts div { font-size: 9.5px } .counts b { font-size: 13px }
  .counts { grid-template-columns: repeat(7, 1fr); gap: 6px }
  .counts div { padding: 6px 8px; min-width: 0 }
  h1 { font-size: 17px } h2 { font-size: 14px } h3 { font-size: 12px }
  .banner { font-size: 12px } code, pre { font-size: 9px } pre { break-inside: avoid }
  body > .dim { break-before: avoid } .parts { display: none }
  .pictures { grid-template-columns: 1fr 1fr }
  th, td { padding-right: 7px; min-width: 0 } .dense th { white-space: normal }
  .dense td:not(.n) { white-space: normal; overflow-wrap: anywhere }
  .wide { overflow: visible } .wide svg { max-width: 100% } figure details { display: none }
  details::details-content { content-visibility: visible; display: block; height: auto } }
"""


def _words(which: int) -> str:
    rules = [f".{name} {{ color: {colors[which]} }}" for name, colors in WORDS.items()]
    rules += [
        f".banner.{name} {{ border-color: {colors[which]}; color: var(--ink);"
        f" font-weight: 400 }}"
        for name, colors in WORDS.items()
        if name in {"PASS", "WARN", "FAIL", "a"}
    ]
    return "\n".join(rules)


STYLE = (
    f"{INKS}{_SHEET}{TYPE}.a, .b {{ font-weight: 600 }}\n{_words(0)}\n"
    f"@media screen and (prefers-color-scheme: dark) {{\n{_words(1)}\n}}\n"
)
"""The sheet, which the dashboard uses too."""

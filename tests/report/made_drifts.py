"""Drifts for the tests of reports: of many layers, and of names that are markup."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ffn_probe.anatomy import ROLES, Site
from ffn_probe.compare import Drift, Note, Side, compare
from ffn_probe.runs import Manifest, Run
from tests.compare.made_runs import draws, make_run

MARKUP = "<script>alert(1)</script>|*x*`[a](http://e.vil)"

EVIL = (
    MARKUP.replace("/", "\u2215"),
    "=HYPERLINK(1)", "+1", "-2", "@team", "\tx", "\rx", "www.e.vil #1 me@e.vil",
    "a\x1b[2J\x00b", "\u202egpj.x", "n\n| - |\n# h", "</details></svg>", "$$x$$ ![i](j)",
    "x" * 3000,
)  # fmt: skip
"""Names that mean something to HTML, Markdown, GitHub, a spreadsheet, a terminal, or no one."""


LEGAL = tuple(word for word in EVIL if word.isprintable() and len(word) < 1000)
"""Those of the names that a run on disk may hold."""


def deep_drift(folder: Path, layers: int) -> Drift:
    """Return a drift of `layers` blocks, all of them as one that drifts at every role."""
    return named_drift(folder, [f"model.layers.{layer}.mlp" for layer in range(layers)])


def named_drift(folder: Path, blocks: Sequence[str]) -> Drift:
    """Return a drift of blocks of these names, all of them as one that drifts everywhere."""
    sites = [Site(0, "mlp", role) for role in ROLES]
    values = {site: draws(i) for i, site in enumerate(sites)}
    moved = {site: [x * np.float32(1.6) + 0.3 for x in v] for site, v in values.items()}
    one = compare(make_run(folder / "a", values, inputs="x"),
                  make_run(folder / "b", moved, inputs="x"))  # fmt: skip
    found, pairs = [], {}
    for layer, name in enumerate(blocks):
        for site in one.sites:
            found.append(replace(site, layer=layer, block_a=name, block_b=name))
            key = (layer, site.role, site.expert, name, name)
            pairs[key] = one._pairs[0, site.role, site.expert, "mlp", "mlp"]
    return replace(one, sites=tuple(found), _pairs=pairs)


def evil_drift(folder: Path) -> Drift:
    """Return a drift whose names, settings, notes and paths are all hostile."""
    drift = named_drift(folder, EVIL)
    made = Manifest(model={"class": MARKUP, "name": EVIL[8]}, tags={"x": EVIL[9]},
                    device=EVIL[1], versions={EVIL[4]: EVIL[0]})  # fmt: skip
    only = tuple(Site(i, word, "gate") for i, word in enumerate(EVIL))
    return replace(
        drift,
        a=Side("<u>a|`*", "runs/<u>a|`*\n'", made),
        b=Side("=b\x1b[2J<img src=x>\ud800", "-runs/b", made),
        only_a=only,
        only_b=only,
        validity=tuple(Note("warn", f"`{word}` {word}") for word in EVIL),
        config_diff=tuple((word, word, f"\ud800{word}") for word in EVIL),
    )


def evil_run(folder: Path, **more: Any) -> Run:
    """Return a run on disk whose names, tags, settings and notes are hostile."""
    roles = ("gate", MARKUP)
    values = {Site(i, w, role): draws(i) for i, w in enumerate(LEGAL) for role in roles}
    fields = {
        "model": {"class": MARKUP, "name": EVIL[8], "dtype": EVIL[4]},
        "tags": {"x": MARKUP, "lone": "\ud800"}, "warnings": EVIL, "device": EVIL[1],
        "command": "ffn-probe `x` | y",
    }  # fmt: skip
    return make_run(folder / "<u>a|`*", values, inputs="x", **(fields | more))

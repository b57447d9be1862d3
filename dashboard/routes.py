"""The pages: their address, their name, and what each needs to be chosen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from urllib.parse import parse_qsl

from dashboard.components.page import Page, Query, problem
from dashboard.data import Library
from ffn_probe.errors import FfnProbeError


@dataclass(frozen=True, slots=True)
class Route:
    """One page: `text` names it in the navigation, "" keeps it out of it; `told` is its use.

    `takes` says what it needs: "" nothing, "run" any run, "sides" a run `a` and maybe a
    second one `b`, "pair" both, "paired" a run of two models.
    """

    path: str
    module: str
    text: str = ""
    takes: str = ""
    told: str = ""
    function: str = ""

    def page(self, library: Library, query: Query) -> Page:
        """Return the page; its module is read when it is asked for."""
        module = import_module(f"dashboard.pages.{self.module}")
        make: Callable[[Library, Query], Page] = getattr(module, self.function or self.module)
        return make(library, query)


ROUTES: Mapping[str, Route] = {
    route.path: route
    for route in (
        Route("/", "runs", "Runs", told="every run of the folder; choose two to compare"),
        Route(
            "/run",
            "run",
            "Run",
            "run",
            "any measure over layers and roles, one site of it, how it was recorded",
        ),
        Route(
            "/compare",
            "compare",
            "Compare",
            "pair",
            "verdict, where two runs differ and by how many times the noise",
            "compared",
        ),
        Route(
            "/compare/site", "site", told="one tensor: distributions, quantiles, folds, floor"
        ),
        Route(
            "/gate",
            "gate",
            "Gate \u00d7 value",
            "sides",
            "how gate and value meet in a GLU, where the activation falls, aligned neurons",
        ),
        Route(
            "/channels",
            "channels",
            "Channels",
            "sides",
            "outlier and dead channels, and which layers share them",
        ),
        Route(
            "/tokens",
            "tokens",
            "Tokens",
            "sides",
            "the tokens behind the largest values, spikes, massive activations, sinks",
        ),
        Route(
            "/quantization",
            "quantization",
            "Quantization",
            "sides",
            "which number formats each site survives, what clips, headroom",
        ),
        Route(
            "/training",
            "training",
            "Training",
            "sides",
            "distributions and measures over steps, beside loss and alarms",
        ),
        Route(
            "/explain",
            "explain",
            "Explain",
            "paired",
            "why a candidate drifted: own or inherited, which stage and part, which bug",
        ),
        Route(
            "/swaps",
            "swaps",
            "Swap lab",
            told="norm x activation: main effects, interaction, what to deploy",
        ),
        Route(
            "/methods",
            "methods",
            "Methods",
            told="what every number means, and what it cannot see",
        ),
    )
}


def render(library: Library, path: str, search: str) -> Page:
    """Return the page of a URL; what cannot be shown becomes a page that says why."""
    route = ROUTES.get(path.rstrip("/") or "/")
    if route is None:
        return problem("No such page", f"There is no page {path!r}.")
    try:
        return route.page(library, query_of(search))
    except FfnProbeError as error:
        return problem("This cannot be shown", str(error))


def query_of(search: str) -> dict[str, str]:
    """Return the parameters of "?a=x&b=y"; of one given twice, the first."""
    found: dict[str, str] = {}
    for key, value in parse_qsl(search.removeprefix("?")):
        found.setdefault(key, value)
    return found

"""JSON: every report keeps to the schema that is shipped, and hides no number."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_probe.anatomy import Site
from ffn_probe.compare import compare
from ffn_probe.report import report
from ffn_probe.report.data import plain, schema
from tests.compare.made_runs import draws, make_run
from tests.report.made_attributions import STORIES
from tests.report.made_drifts import evil_drift, evil_run
from tests.report.schema_check import problems

SAMPLES = Path(__file__).parents[2] / "sample_runs"
TOLD = {
    "drift": ["ln-gelu", "rms-swiglu"],
    "telemetry": ["ln-gelu"],
    "attribution": ["swap-naive"],
    "several": ["ln-gelu", "rms-gelu", "swap-naive", "planted"],
}


def written(told: Any, folder: Path) -> dict[str, Any]:
    text = report(told, to=folder / "x.json").read_text()
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("json")
    return {kind: written([SAMPLES / n for n in names], folder) for kind, names in TOLD.items()}


@pytest.mark.parametrize("kind", list(TOLD))
def test_a_report_keeps_to_the_schema_and_says_which(
    kind: str, data: dict[str, dict[str, Any]]
) -> None:
    assert problems(data[kind], schema()) == []
    assert data[kind]["schema"] == {"name": "ffn-probe-report", "version": 1}
    assert data[kind]["kind"] == kind
    assert data[kind]["command"].startswith("ffn-probe report ")


@pytest.mark.parametrize("name", list(STORIES))
def test_an_attribution_keeps_to_the_schema(name: str, tmp_path: Path) -> None:
    found = written(STORIES[name](), tmp_path)
    assert problems(found, schema()) == []
    assert found["command"] == ""


def test_hostile_names_keep_to_the_schema(tmp_path: Path) -> None:
    assert problems(written(evil_drift(tmp_path / "a"), tmp_path), schema()) == []
    assert problems(written(evil_run(tmp_path / "b"), tmp_path), schema()) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("verdict", "status"), "OK"), (("sites", 0, "layer"), "0"), (("extra",), 1),
        (("sites", 0, "changes", 0, "value"), None), (("schema", "version"), 2),
        (("config_diff", 0), ["a", "b"]), (("kind",), "telemetry"), (("paired",), 1),
    ],
)  # fmt: skip
def test_a_document_that_is_not_as_the_schema_says_is_found(
    place: tuple[str | int, ...], value: object, data: dict[str, dict[str, Any]]
) -> None:
    broken: Any = deepcopy(data["drift"])
    inner = broken
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert problems(broken, schema())


@pytest.mark.parametrize("kind", ["drift", "telemetry", "attribution"])
def test_a_document_that_lacks_a_key_is_found(
    kind: str, data: dict[str, dict[str, Any]]
) -> None:
    for key in data[kind]:
        assert problems({k: v for k, v in data[kind].items() if k != key}, schema()), key


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    site = {Site(0, "mlp", "gate"): draws(0)}
    nothing = {s: [np.full_like(x, np.nan) for x in v] for s, v in site.items()}
    drift = compare(make_run(tmp_path / "a", site), make_run(tmp_path / "b", nothing))
    found = written(drift, tmp_path)
    assert problems(found, schema()) == []
    values = {c["statistic"]: c["value"] for c in found["sites"][0]["changes"]}
    true = {c.statistic: c.value for c in drift.sites[0].changes}
    assert values["w1_asinh"] == "nan"
    assert math.isnan(true["w1_asinh"])
    assert {k for k, v in true.items() if math.isnan(v)} == {
        k for k, v in values.items() if v == "nan"
    }


def test_what_is_plain_is_json() -> None:
    odd = {"a": (math.inf, -math.inf, math.nan), 1: {"x": Path("p")}, "s": "\ud800"}
    assert plain(odd) == {"a": ["inf", "-inf", "nan"], "1": {"x": "p"}, "s": "?"}

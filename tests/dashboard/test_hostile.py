"""A folder of runs made to do harm: each says so, and everything else still works."""

import json
import re
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard.app import make_app
from dashboard.data import Library
from dashboard.routes import ROUTES, render
from ffn_probe.errors import FfnProbeError
from tests.dashboard.hostile import (
    GOOD,
    IMAGE,
    REFUSED,
    SAMPLES,
    SCRIPT,
    SECRET,
    SHOWN,
    bomb,
    make_folder,
    part,
)
from tests.dashboard.trees import of, text
from tests.runs.nobody import as_nobody

CASES = [
    (name, path)
    for i, name in enumerate([*REFUSED, *SHOWN])
    for j, path in enumerate(ROUTES)
    if name in SHOWN or (i + j) % 4 == 0
]
CHOICES = ("a={0}", "run={0}", "a={0}&b=" + GOOD, "a=" + GOOD + "&b={0}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "runs"
    make_folder(root)
    return root


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    return Library(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> FlaskClient:
    return make_app(folder).server.test_client()


def test_every_run_is_listed_and_what_is_broken_says_why(library: Library) -> None:
    found = {entry.id: entry for entry in library.entries()}
    assert set(REFUSED) | set(SHOWN) | {GOOD, "n" * 200} < set(found)
    assert not {"circle", "pipe"} & set(found)
    assert found[GOOD].state == "closed"
    page = text(render(library, "/", "").content)
    for name in ("fifo-manifest", "manifest-outside", "deep-json", "endless"):
        assert found[name].state == "broken"
        assert REFUSED[name][1] in found[name].problem
        assert name in page


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_does_harm_is_refused_in_words(library: Library, name: str) -> None:
    with pytest.raises(FfnProbeError, match=re.escape(REFUSED[name][1])):
        library.run(name).measures(["rms"])


@pytest.mark.parametrize(("name", "path"), CASES)
def test_no_page_fails_on_it_and_none_tells_what_lies_outside(
    library: Library, name: str, path: str
) -> None:
    page = render(library, path, "?" + CHOICES[len(name + path) % 4].format(name))
    said = json.dumps([text(page.content), page.title])
    assert said
    assert SECRET not in said


def test_a_small_file_that_unpacks_to_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffn_probe.runs.sizes.MAX_BYTES", 32 << 20)
    for name in ("bomb", GOOD):
        shutil.copytree(SAMPLES / GOOD, tmp_path / name)
    bomb(tmp_path / "bomb")
    library = Library(tmp_path)
    with pytest.raises(FfnProbeError, match="unpacks to more than 32 MiB"):
        library.run("bomb").measures(["p50_abs"])
    assert not library.run(GOOD).measures(["p50_abs"]).empty


@pytest.mark.parametrize("path", ROUTES)
def test_names_are_text_on_every_page(library: Library, path: str) -> None:
    name = SCRIPT.replace("/", "-")
    for search in (f"?run={name}", f"?a={name}", f"?a={name}&b={name}"):
        content = render(library, path, search).content
        assert not of(content, "Markdown")
        for graph in of(content, "Graph"):
            drawn = graph.figure.to_json()
            assert IMAGE not in json.loads(f'"{_flat(drawn)}"')
            assert "<script" not in drawn
        for link in [*of(content, "A"), *of(content, "Link")]:
            assert link.href.startswith(("/", "#"))


def _flat(drawn: str) -> str:
    """Return the labels of a figure as one text, without what only identifies a point."""
    data = json.loads(drawn)
    for trace in data["data"]:
        trace.pop("customdata", None)
        trace.pop("ids", None)
    return json.dumps(json.dumps(data))[1:-1]


def test_what_may_not_be_read_says_so_and_hides_nothing_else() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for run in ("door", "manifest", "part", "good"):
            shutil.copytree(SAMPLES / GOOD, root / run)
        (root / "manifest" / "run.json").chmod(0)
        part(root / "part", "moments").chmod(0)
        (root / "door").chmod(0)
        said = as_nobody(_looked, root)
        (root / "door").chmod(0o755)
    found = dict(line.split(": ", 1) for line in said.splitlines())
    assert "Permission denied" in found["door"]
    assert "Permission denied" in found["manifest"]
    assert "Permission denied" in found["part"]
    assert found["good"] == "read"


def _looked(root: Path) -> str:
    """Return what happens to each run of a folder."""
    said = []
    library = Library(root)
    for entry in library.entries():
        try:
            library.run(entry.id).measures(["rms"])
            said.append(f"{entry.id}: read")
        except FfnProbeError as error:
            said.append(f"{entry.id}: {error}".replace("\n", " "))
    return "\n".join(said)


# ---- addresses --------------------------------------------------------------------------

NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from([
        "", "..", "../..", "/etc/passwd", "%00", "\0", "a" * 5000, SCRIPT, IMAGE, GOOD, "nan",
        "-1", "1e999", "99999999999999999999", "{}", "[]", "None", "layers.0.ffn/gate",
        "layers.0.ffn/gate#3", "rms", "\ud800", "\u202e", "'; --", "${7*7}", "{{7*7}}",
    ]),
)  # fmt: skip
KEYS = st.sampled_from([
    "a", "b", "run", "site", "measure", "role", "layer", "sort", "table", "aspect", "step",
    "view", "block", "q", "norm", "activation", "channel", "expert", "format", "threshold",
    "page", "x",
])  # fmt: skip


@pytest.mark.parametrize("path", ROUTES)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(query=st.lists(st.tuples(KEYS, NASTY), max_size=5))
def test_no_address_makes_a_page_fail(
    client: FlaskClient, path: str, query: list[tuple[str, str]]
) -> None:
    rule = path.rstrip("/") or "/runs"
    given_run = [("a", GOOD), ("b", GOOD), ("run", GOOD)]
    for asked in (query, given_run + query):
        pairs = {key: value.encode("utf-8", "surrogatepass") for key, value in asked}
        with client.get(f"{rule}.json", query_string=pairs) as answer:
            assert answer.status_code in {200, 400, 404, 414}, answer.text


@pytest.mark.parametrize(
    "path",
    ["/report/drift.html", "/report/attribution.json", "/report/run.md", "/report/x.html",
     "/report/drift.exe", "/report/../run.json", "/assets/..%2f..%2fpyproject.toml",
     "/assets/%2e%2e/app.py", "/%00", "/\ud7ff", "/_dash-layout/..", "/runs.json.json",
     "/run.json?run=%ff%fe", "/run.json?run=" + "x" * 9000],
)  # fmt: skip
def test_odd_addresses_lead_to_no_file_and_no_failure(client: FlaskClient, path: str) -> None:
    """What is no file is the frame of the app, which says then that there is no such page."""
    with client.get(path) as answer:
        assert answer.status_code in {200, 400, 404}, answer.text[:200]
        assert answer.status_code != 200 or answer.text.lstrip().startswith("<!doctype html>")
        assert not re.search("Traceback|hatchling|make_app|schema_version", answer.text)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"output": "x"}', b'{"output": 1, "inputs": []}',
     b'{"output": "page.children", "outputs": {}, "inputs": [], "changedPropIds": []}'],
)  # fmt: skip
def test_a_callback_that_is_none_does_not_end_the_server(
    client: FlaskClient, body: bytes
) -> None:
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    with client.post(
        "/_dash-update-component", data=body, content_type="application/json"
    ) as answer:
        assert answer.status_code >= 400
        assert "Traceback" not in answer.text
    assert client.get("/").status_code == 200


# ---- many ------------------------------------------------------------------------------


def test_ten_thousand_runs_are_listed_quickly_the_second_time(tmp_path: Path) -> None:
    for i in range(10_000):
        path = tmp_path / f"sweep-{i // 100}" / f"run-{i:05d}"
        path.mkdir(parents=True)
        (path / "run.json").write_text(f'{{"schema_version": 1, "steps": {i}}}')
    library = Library(tmp_path)
    assert len(library.entries()) == 10_000
    start = time.process_time()
    assert len(library.entries()) == 10_000
    assert library.run("sweep-99/run-09999").manifest.steps == 9999
    assert time.process_time() - start < 2.0


def test_a_manifest_of_100_000_blocks_is_read_once(tmp_path: Path) -> None:
    block = {"name": "x", "layer": 0, "kind": "mlp", "activation": "gelu", "norm": {"kind": ""},
             "projections": {}, "d_model": 8, "d_ff": 32}  # fmt: skip
    (tmp_path / "run").mkdir()
    blocks = [block | {"name": f"layers.{i}", "layer": i} for i in range(100_000)]
    (tmp_path / "run" / "run.json").write_text(
        json.dumps({"schema_version": 1, "blocks": blocks})
    )
    library = Library(tmp_path)
    entry = library.entries()[0]
    start = time.process_time()
    assert library.entries()[0].run is entry.run
    assert time.process_time() - start < 0.1
    assert text(render(library, "/", "").content)

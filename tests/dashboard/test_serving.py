"""Starting, refusing to start, answering this machine only, ending."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from dashboard.admission import VARIABLE, token_of
from dashboard.app import make_app
from ffn_probe.compare import compare
from ffn_probe.errors import FfnProbeError
from tests.dashboard.serving import dashboard

SAMPLES = Path(__file__).parents[2] / "sample_runs"
TOKEN = "a-token-of-24-characters"

START = """
import sys, time
from pathlib import Path
from dashboard.admission import VARIABLE, token_of
from dashboard.app import make_app
client = make_app(Path(sys.argv[1])).server.test_client()
assert client.get("/").status_code == 200
print(time.process_time(), "torch" in sys.modules, "transformers" in sys.modules)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with dashboard(SAMPLES) as (found, _):
        yield found


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ffn_probe", "dashboard", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def asked(path: str, search: str) -> dict[str, object]:
    """Return what the page sends to learn what a URL shows."""
    outputs = [
        f"{id_}.{name}"
        for id_, name in (
            ("page", "children"), ("navigation", "children"), ("exports", "children"),
            ("title", "data"), ("tick", "max_intervals"), ("tick", "interval"),
            ("version", "data"),
        )
    ]  # fmt: skip
    pairs = [name.split(".") for name in outputs]
    return {
        "output": f"..{'...'.join(outputs)}..",
        "outputs": [{"id": id_, "property": name} for id_, name in pairs],
        "state": [{"id": "version", "property": "data", "value": None}],
        "inputs": [
            {"id": "url", "property": "pathname", "value": path},
            {"id": "url", "property": "search", "value": search},
            {"id": "tick", "property": "n_intervals", "value": None},
        ],
        "changedPropIds": ["url.pathname"],
    }


def test_it_starts_in_two_seconds_of_work_and_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", START, str(SAMPLES)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    seconds, *heavy = done.stdout.split()
    assert heavy == ["False", "False"]
    assert float(seconds) < 2.0


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(str(SAMPLES), "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot listen at 127.0.0.1, port {port}: Address")
    assert "--port 0" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])
def test_an_address_that_others_can_reach_is_refused_without_a_token(host: str) -> None:
    done = start(str(SAMPLES), "--host", host)
    assert done.returncode == 2
    assert f"{host} can be reached from other machines" in done.stderr
    assert "--token" in done.stderr


def test_such_an_address_is_served_to_who_has_the_token_with_a_warning() -> None:
    with dashboard(SAMPLES, "--host", "0.0.0.0", "--token", TOKEN) as (found, process):
        where = found.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(HTTPError, match="401"):
            urlopen(Request(where, headers={"Host": "box:80"}), timeout=20)
        bearer = {"Host": "box:80", "Authorization": f"Bearer {TOKEN}"}
        assert urlopen(Request(where, headers=bearer), timeout=20).status == 200
        assert process.stdout
        assert "warning: other machines can reach" in process.stdout.readline()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--token", "short"], "needs at least 16"),
        (["--token", "with spaces in it, many"], "no spaces"),
        (["--token-file", "nowhere"], "no file nowhere"),
        (["--token-file", str(SAMPLES)], "no file"),
        (["--token", TOKEN, "--token-file", "x"], "both --token and --token-file"),
    ],
)
def test_a_token_that_is_none_is_an_error(options: list[str], said: str) -> None:
    done = start(str(SAMPLES), *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert TOKEN not in done.stderr


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert token_of("", tmp_path / "token", {VARIABLE: "x" * 20}) == TOKEN
    assert token_of("", None, {VARIABLE: TOKEN}) == TOKEN
    assert token_of(TOKEN, None, {VARIABLE: "x" * 20}) == TOKEN
    assert token_of("", None, {}) == ""
    (tmp_path / "empty").write_text("")
    with pytest.raises(FfnProbeError, match="holds no token"):
        token_of("", tmp_path / "empty", {})


def test_a_folder_that_is_none_is_an_error() -> None:
    done = start("nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no folder nowhere")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process may have")
def test_its_memory_is_bounded() -> None:
    with dashboard(SAMPLES) as (found, process):
        assert urlopen(found, timeout=20).status == 200
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if "address space" in line)
    assert line.split()[3] == str(8 << 30)


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    with dashboard(SAMPLES) as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout
        assert process.stdout.read() == ""


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(address, headers={"Host": name}), timeout=20)
    for name in ("localhost", "localhost:80", "127.0.0.1", "[::1]:80"):
        assert urlopen(Request(address, headers={"Host": name}), timeout=20).status == 200


def test_a_page_may_load_nothing_from_elsewhere(address: str) -> None:
    policy = urlopen(address, timeout=20).headers["Content-Security-Policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'self'"
    assert "unsafe" not in parts["script-src"]
    assert parts["script-src"].count("sha256-") >= 2
    assert parts["frame-ancestors"] == "'none'"


@pytest.mark.parametrize(
    ("kind", "mime", "begins"),
    [("html", "text/html", "<!doctype"), ("md", "text/markdown", "## FFN"),
     ("json", "application/json", "{")],
)  # fmt: skip
def test_the_report_can_be_fetched_as_a_file(
    address: str, kind: str, mime: str, begins: str
) -> None:
    url = f"{address}/report/drift.{kind}?a=ln-gelu&b=rms-swiglu"
    with urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith(mime)
    assert text.startswith(begins)
    drift = compare(SAMPLES / "ln-gelu", SAMPLES / "rms-swiglu")
    assert drift.verdict.sentence.split(";")[0] in text


@pytest.mark.parametrize(
    "path", ["/report/drift.exe?a=ln-gelu&b=ln-gelu", "/report/drift.md?a=../x&b=y",
             "/report/nothing.md?run=ln-gelu", "/report/run.md?run=nowhere",
             "/assets/../../pyproject.toml"],
)  # fmt: skip
def test_what_is_not_there_is_not_served(address: str, path: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"hatchling" not in answer.read()
    connection.close()


def test_the_callbacks_answer_a_url_with_its_page(address: str) -> None:
    """At once or, as long as it is in the making, with one more look to come."""
    body = asked("/compare", "?a=ln-gelu&b=ln-gelu")
    request = Request(
        address + "/_dash-update-component", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    for _ in range(200):
        answer = json.load(urlopen(request, timeout=60))["response"]
        if answer["title"]["data"] != "One moment - ffn-probe":
            break
        assert answer["tick"]["max_intervals"] == 1
        time.sleep(0.2)
    assert answer["title"]["data"] == "ln-gelu against ln-gelu - ffn-probe"
    assert answer["tick"]["max_intervals"] == 0


def test_a_failure_no_one_foresaw_becomes_a_page(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("of all things")

    monkeypatch.setattr("dashboard.pages.runs.runs", broken)
    client = make_app(SAMPLES).server.test_client()
    answer = client.post("/_dash-update-component", json=asked("/", ""))
    assert answer.status_code == 200
    assert "ValueError: of all things" in json.dumps(answer.json["sideUpdate"]["page"])
    assert "of all things" in caplog.text


@pytest.mark.parametrize(
    ("kind", "begins"), [("html", "<!doctype"), ("md", "#"), ("json", "{")]
)
def test_the_report_of_a_paired_run_can_be_fetched(
    address: str, kind: str, begins: str
) -> None:
    url = f"{address}/report/attribution.{kind}?run=swap-naive"
    with urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    assert text.startswith(begins)
    assert "ln-gelu" in text

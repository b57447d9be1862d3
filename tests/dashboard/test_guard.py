"""Who gets an answer: the token on every request, the names of this machine, sane requests."""

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from dashboard import guard
from dashboard.app import make_app

SAMPLES = Path(__file__).parents[2] / "sample_runs"
TOKEN = "a-token-of-24-characters"
PATHS = ("/", "/run?run=ln-gelu", "/runs.json", "/report/drift.md?a=ln-gelu&b=ln-gelu",
         "/_dash-layout", "/_dash-dependencies", "/assets/dashboard.css",
         "/nowhere")  # fmt: skip


@pytest.fixture
def client() -> FlaskClient:
    return make_app(SAMPLES, token=TOKEN, remote=True).server.test_client()


@pytest.fixture(scope="module")
def local() -> FlaskClient:
    return make_app(SAMPLES).server.test_client()


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "ln-gelu" not in answer.text
    assert client.post("/_dash-update-component", json={}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": "Bearer t\u00f6ken"},
        {"Cookie": f"{guard.COOKIE}={TOKEN}"}, {"Cookie": f"{guard.COOKIE}="},
    ],
)  # fmt: skip
def test_a_wrong_token_is_none(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.get("/", headers=headers).status_code == 401


def test_the_token_is_taken_from_the_header(client: FlaskClient) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/runs.json", headers=bearer).status_code == 200
    assert client.get("/runs.json").status_code == 401


def test_the_token_leaves_the_address_for_a_cookie(client: FlaskClient) -> None:
    answer = client.get(f"/compare?a=x%26y&token={TOKEN}&b=&b=2")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/compare?a=x%26y&b=&b=2"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert answer.headers["Cache-Control"] == "no-store"
    assert client.get("/runs.json").status_code == 200


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "///evil.example/x"])
def test_the_way_back_stays_here(client: FlaskClient, path: str) -> None:
    answer = client.get(f"http://localhost{path}?token={TOKEN}")
    assert answer.status_code in {303, 308, 404}
    where = answer.headers.get("Location", "/")
    assert not where.startswith(("//", "/\\"))
    assert "//evil" not in where.replace("http://localhost//", "http://localhost/ /")


def test_a_wrong_token_in_the_address_is_refused_even_with_the_cookie(
    client: FlaskClient,
) -> None:
    client.get(f"/?token={TOKEN}")
    assert client.get("/?token=wrong").status_code == 401


def test_a_comparison_takes_as_long_however_much_is_right(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is left to the standard library, and for every kind of token."""
    seen: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(
        "dashboard.guard.hmac.compare_digest", lambda a, b: bool(seen.append((a, b)))
    )
    client.get("/", headers={"Authorization": "Bearer x"})
    client.get("/?token=y")
    client.set_cookie(guard.COOKIE, "z")
    client.get("/")
    assert [given for given, _ in seen] == [b"x", b"", b"y", b"z"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(local: FlaskClient, method: str) -> None:
    assert local.open("/", method=method).status_code == 405


def test_what_is_too_long_is_refused(local: FlaskClient) -> None:
    assert local.get("/?x=" + "y" * 20_000).status_code == 414
    answer = local.post("/_dash-update-component", json={"x": "y" * (2 << 20)})
    assert answer.status_code == 413


def test_a_page_of_another_site_cannot_post(local: FlaskClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert local.post("/_dash-update-component", json={}, headers=headers).status_code == 403
    assert local.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1@evil.example", "localhost.evil.example", "[", "10.0.0.1"],
)
def test_another_name_for_this_machine_is_refused(local: FlaskClient, host: str) -> None:
    assert local.get("/", headers={"Host": host}).status_code in {400, 403}


def test_private_pages_are_not_kept_and_nothing_is_framed_or_sniffed(
    local: FlaskClient,
) -> None:
    for path in ("/", "/runs.json", "/nowhere.json", "/_dash-layout"):
        headers = local.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    with local.get("/assets/dashboard.css") as answer:
        assert answer.headers["Cache-Control"] != "no-store"

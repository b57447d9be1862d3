"""Who is answered, and what an answer may do: the token, the host, the policy of a page.

Bound to this machine, the dashboard answers its names only, so that no other site can reach
it through a name of its own that it points here. Bound to more, it asks for a token on every
request: a header, a cookie, or once in the address, from where it is moved into the cookie.
"""

import hmac
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode, urlsplit

from dash import Dash
from flask import Request, Response, abort, redirect, request
from werkzeug.wrappers import Response as Answer

from dashboard import LOOPBACK

COOKIE = "ffn-probe"
_METHODS = frozenset({"GET", "HEAD", "POST"})
_BODY = 1 << 20  # bytes of a request; a callback sends a few hundred
_ADDRESS = 16_384  # bytes of a query
_PUBLIC = ("/assets/", "/_dash-component-suites/")
"""Files of this package and of Dash, which a browser may keep; all else is private."""
_POLICY = (
    "default-src 'self'; script-src 'self' {scripts}; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_ASKS = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>token - ffn-probe</title>"
    "<p>This dashboard asks for its token. Add <code>?token=...</code> to the address once, "
    "or send the header <code>Authorization: Bearer ...</code>."
    '<p>Coming from another page with the token known to this browser? <a href="">Go on</a>.'
)


def guard(app: Dash, *, token: str = "", remote: bool = False) -> None:
    """Let an app answer only whom it should, and a page load nothing from elsewhere.

    Args:
        app: the app.
        token: what every request has to bring, when not empty.
        remote: whether other machines can reach it: then any name of this one is answered.
    """
    app.server.config["MAX_CONTENT_LENGTH"] = _BODY
    app.server.before_request(lambda: _sane(request))
    if not remote:
        app.server.before_request(lambda: _this_machine(request))
    if token:
        app.server.before_request(lambda: _admitted(request, token))
    app.server.after_request(_hardened(app))


def _sane(asked: Request) -> None:
    """Refuse what no browser on a page of ours sends."""
    if asked.method not in _METHODS:
        abort(405)
    if len(asked.query_string) > _ADDRESS:
        abort(414)
    if asked.method == "POST" and asked.headers.get("Sec-Fetch-Site") == "cross-site":
        abort(403, "sent by a page of another site")


def _this_machine(asked: Request) -> None:
    """Refuse another site's name that leads here."""
    try:
        name = urlsplit(f"//{asked.host}").hostname
    except ValueError:
        name = None
    if name not in LOOPBACK:
        abort(403, "ask for 127.0.0.1 or localhost")


def _admitted(asked: Request, token: str) -> Answer | None:
    """Refuse who has no token; move one in the address into a cookie."""
    given = asked.args.get("token")
    if given is not None:
        return _moved(asked, token) if _equal(given, token) else _refused()
    kind, _, sent = asked.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and _equal(sent.strip(), token):
        return None
    return None if _equal(asked.cookies.get(COOKIE, ""), _ticket(token)) else _refused()


def _moved(asked: Request, token: str) -> Answer:
    """Return the way to the same page without the token in its address."""
    query = parse_qsl(asked.query_string.decode("utf-8", "replace"), keep_blank_values=True)
    rest = urlencode([(key, value) for key, value in query if key != "token"])
    # A path of two slashes would be another machine's address.
    where = "/" + asked.path.lstrip("/\\") + (f"?{rest}" if rest else "")
    answer = redirect(where, 303)
    answer.set_cookie(
        COOKIE, _ticket(token), httponly=True, samesite="Strict", secure=asked.is_secure
    )
    return answer


def _refused() -> Answer:
    return Response(_ASKS, 401, {"WWW-Authenticate": "Bearer"}, mimetype="text/html")


def _ticket(token: str) -> str:
    """Return what the cookie holds: it admits, and does not tell the token."""
    return hmac.new(token.encode(), b"cookie of the dashboard", sha256).hexdigest()


def _equal(given: str, true: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), true.encode())


def _hardened(app: Dash) -> Callable[[Response], Response]:
    def harden(response: Response) -> Response:
        # The hashes are complete only once the first page was made.
        scripts = " ".join(app.csp_hashes())
        response.headers["Content-Security-Policy"] = _POLICY.format(scripts=scripts)
        response.headers.update(_HEADERS)
        if not request.path.startswith(_PUBLIC) or response.status_code >= 400:
            response.headers["Cache-Control"] = "no-store"
        return response

    return harden

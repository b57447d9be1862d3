"""`python -m dashboard RUNS`: serve the dashboard, to this machine only by default."""

import argparse
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from dashboard.admission import VARIABLE, check_reach, token_of
from ffn_probe.errors import FfnProbeError

MEMORY = 8 << 30
"""Bytes of address space: a file that unpacks to more is an error of that file only."""
_SECONDS = 60  # after which a connection that says nothing is closed


def main() -> int:
    """Serve until interrupted; return 0 then, and 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="dashboard", description=__doc__)
    parser.add_argument("runs", type=Path, help="a folder with runs")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8050, help="port; 0 takes a free one")
    parser.add_argument(
        "--token",
        default="",
        help="what every request has to bring; needed with another --host",
    )
    parser.add_argument(
        "--token-file", type=Path, help=f"a file with the token (or set {VARIABLE})"
    )
    given = parser.parse_args()
    try:
        token = token_of(given.token, given.token_file)
        serve(given.runs, host=given.host, port=given.port, token=token)
    except FfnProbeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 2
    return 0


def serve(runs: Path, *, host: str, port: int, token: str = "") -> None:
    """Serve the runs of a folder until interrupted.

    Raises:
        FfnProbeError: there is no folder, the address is not this machine's own (and there
            is no token), or the port is taken.
    """
    if not runs.is_dir():
        raise FfnProbeError(f"no folder {runs}: the dashboard shows the runs of a folder")
    remote = check_reach(host, token)
    listening = _listen(host, port)
    # Two pages are made at a time; more threads for each product only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from werkzeug.serving import WSGIRequestHandler, make_server

    from dashboard.app import make_app

    class Handler(WSGIRequestHandler):
        """Answers without saying what it is made of, and does not wait for ever."""

        server_version, sys_version, timeout = "ffn-probe", "", _SECONDS

    _bound_memory()
    app = make_app(runs.resolve(), token=token, remote=remote)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with listening, suppress(KeyboardInterrupt):
        server = make_server(
            host, listening.getsockname()[1], app.server, threaded=True,
            request_handler=Handler, fd=listening.fileno(),
        )  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        opened = f"http://{shown}:{server.port}/"
        once = " (open it once with ?token=...)" if token else ""
        print(f"dashboard of {runs}: {opened}{once} (Ctrl-C ends it)", flush=True)  # noqa: T201
        if remote:
            print(  # noqa: T201
                f"warning: other machines can reach {opened}, and without encryption read the "
                "token and the runs on the way; put a proxy with TLS in front of it",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        server.serve_forever()


def _bound_memory() -> None:
    """Ask the system for no more than MEMORY, where it can be asked to."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    least = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with suppress(OSError, ValueError):  # macOS takes no such wish
        resource.setrlimit(resource.RLIMIT_AS, (least, hard))


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, before anything else is done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise FfnProbeError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}. Choose another "
            "with --port, or --port 0 for a free one."
        ) from error
    return listening


if __name__ == "__main__":
    sys.exit(main())

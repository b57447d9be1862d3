"""`python -m dashboard RUNS`: serve the dashboard, to this machine only by default."""

import argparse
import logging
import socket
import sys
from contextlib import suppress
from pathlib import Path

from dashboard import LOOPBACK
from ffn_probe.errors import FfnProbeError


def main() -> int:
    """Serve until interrupted; return 0 then, and 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="dashboard", description=__doc__)
    parser.add_argument("runs", type=Path, help="a folder with runs")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8050, help="port; 0 takes a free one")
    parser.add_argument(
        "--allow-remote", action="store_true", help="listen where other machines can reach it"
    )
    given = parser.parse_args()
    try:
        serve(given.runs, host=given.host, port=given.port, remote=given.allow_remote)
    except FfnProbeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 2
    return 0


def serve(runs: Path, *, host: str, port: int, remote: bool) -> None:
    """Serve the runs of a folder until interrupted.

    Raises:
        FfnProbeError: there is no folder, the address is not this machine's own (and
            `remote` is not set), or the port is taken.
    """
    if not runs.is_dir():
        raise FfnProbeError(f"no folder {runs}: the dashboard shows the runs of a folder")
    if host not in LOOPBACK and not remote:
        raise FfnProbeError(
            f"{host} can be reached from other machines, and the dashboard asks nobody for a "
            "password. Leave out --host (this machine only), or add --allow-remote behind a "
            "proxy that does."
        )
    listening = _listen(host, port)
    from werkzeug.serving import make_server

    from dashboard.app import make_app

    app = make_app(runs.resolve(), remote=remote)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with listening, suppress(KeyboardInterrupt):
        server = make_server(
            host, listening.getsockname()[1], app.server, threaded=True, fd=listening.fileno()
        )
        shown = f"[{host}]" if ":" in host else host
        print(  # noqa: T201
            f"dashboard of {runs}: http://{shown}:{server.port}/ (Ctrl-C ends it)", flush=True
        )
        server.serve_forever()


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

"""A report as PDF and its charts as PNG, through a Chromium that is installed.

The browser gets one file in a folder of its own, a profile that is thrown away, and no
network.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ffn_probe.errors import FfnProbeError
from ffn_probe.report.style import INKS, TYPE
from ffn_probe.report.svg import size

VARIABLE = "FFN_PROBE_CHROMIUM"
"""The environment variable that names the browser."""

BROWSERS: tuple[str, ...] = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "chrome-headless-shell", "microsoft-edge",
)  # fmt: skip
"""The names under which a Chromium is looked for in PATH."""

_SECONDS = 120.0
_SCALE = 2  # pixels of a PNG for each of the chart's
_FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
)  # fmt: skip
_DATE = re.compile(rb"(/(?:Creation|Mod)Date \(D:)\d{14}")
_NODE = re.compile(rb"node\d{8}")
_SAID = 300  # characters of what the browser said


def find_browser() -> str:
    """Return the path of a Chromium: that of FFN_PROBE_CHROMIUM, else one in PATH.

    Raises:
        FfnProbeError: there is none.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        found = shutil.which(named)
        if found is None:
            raise FfnProbeError(f"{VARIABLE} names {named}, which cannot be run")
        return found
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise FfnProbeError(
            "PDF and PNG are made by Chromium or Chrome, and none is in PATH (looked for "
            f"{', '.join(BROWSERS)}). Install one (apt install chromium), or name it in "
            f"{VARIABLE}; or write .html, which prints well, or .svg"
        )
    return found


def to_pdf(html: str, *, made: str = "") -> bytes:
    """Return a page as PDF, everything that can be opened open.

    Its dates are `made` (as in a manifest: "2026-11-25T14:28:19+00:00"), so that the same
    page makes the same bytes with the same browser.

    Raises:
        FfnProbeError: there is no Chromium, or it fails.
    """
    opened = re.sub(r'<details( class="part")?>', r"<details\1 open>", html)
    data = _made(opened, ["--no-pdf-header-footer", "--print-to-pdf={folder}/out.pdf"])
    stamp = re.sub(r"[^0-9]", "", made)[:14]
    stamp = stamp if len(stamp) == 14 else "19700101000000"
    return _renumbered(_DATE.sub(rb"\g<1>" + stamp.encode(), data))


def _renumbered(pdf: bytes) -> bytes:
    """Return a PDF whose tags are numbered from 1: where a browser begins is chance."""
    numbers = sorted(set(_NODE.findall(pdf)))
    names = {number: b"node%08d" % i for i, number in enumerate(numbers, 1)}
    return _NODE.sub(lambda found: names[found[0]], pdf)


def to_png(svg: str) -> bytes:
    """Return a chart as PNG on white, at twice its size.

    Raises:
        FfnProbeError: there is no Chromium, or it fails.
    """
    width, height = size(svg)
    ground = "html, body { margin: 0; background: #fff; color-scheme: light }"
    page = (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{INKS.replace('screen and', 'not all and')}{TYPE}{ground}</style>{svg}"
    )
    flags = ["--screenshot={folder}/out.png", f"--window-size={width},{height}",
             f"--force-device-scale-factor={_SCALE}"]  # fmt: skip
    return _made(page, flags)


def _made(page: str, flags: Sequence[str]) -> bytes:
    """Return what the browser makes of a page; without its own sandbox where it needs that."""
    browser = find_browser()
    root = getattr(os, "geteuid", lambda: 1)() == 0
    for sandbox in [["--no-sandbox"]] if root else [[], ["--no-sandbox"]]:
        data, said = _run(browser, page, [*sandbox, *flags])
        if data or "sandbox" not in said.lower():
            break
    if not data:
        raise FfnProbeError(f"{browser} made nothing: {said or 'it said nothing'}")
    return data


def _run(browser: str, page: str, flags: Sequence[str]) -> tuple[bytes, str]:
    """Return what was made (b"" for nothing) and what the browser said last."""
    with tempfile.TemporaryDirectory(prefix="ffn-probe-", ignore_cleanup_errors=True) as folder:
        where = Path(folder) / "report.html"
        where.write_bytes(page.encode("utf-8", "replace"))
        line = [
            browser, *_FLAGS, f"--user-data-dir={folder}/profile",
            *(flag.format(folder=folder) for flag in flags), where.as_uri(),
        ]  # fmt: skip
        environment = os.environ | {"HOME": folder, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        try:
            done = subprocess.run(
                line, env=environment, cwd=folder, capture_output=True, timeout=_SECONDS,
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return b"", f"it was stopped after {_SECONDS:.0f} s"
        except OSError as error:
            return b"", str(error.strerror or error)
        said = done.stderr.decode("utf-8", "replace").strip()[-_SAID:]
        made = next(Path(folder).glob("out.*"), None)
        return (made.read_bytes() if made else b""), said

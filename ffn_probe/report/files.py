"""Files that are written whole or not at all."""

import tempfile
from pathlib import Path

from ffn_probe.errors import FfnProbeError


def check_folder(path: Path) -> None:
    """Raise FfnProbeError when the folder in which a file is to be is not there."""
    if not path.parent.is_dir():
        raise FfnProbeError(f"cannot write {path}: no folder {path.parent}")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; a file that exists is replaced, whole or not at all.

    Raises:
        FfnProbeError: the place cannot be written.
    """
    write(path, encoded(text))


def encoded(text: str) -> bytes:
    """Return UTF-8; a lone surrogate out of a damaged name becomes a question mark."""
    return text.encode("utf-8", "replace")


def make_folder(folder: Path) -> None:
    """Make a folder with those above it; it may be there.

    Raises:
        FfnProbeError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FfnProbeError(f"cannot make the folder {folder}: {error.strerror}") from error


def write(path: Path, data: bytes) -> None:
    """Write to a name beside `path`, then take its place: never half a file.

    Raises:
        FfnProbeError: the place cannot be written.
    """
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            beside = Path(file.name)
            try:
                file.write(data)
                file.flush()
                beside.chmod(mode)
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise FfnProbeError(f"cannot write {path}: {error.strerror or error}") from error

"""What was typed behind an option, as values; a mistake is an error of usage."""

import typer

from ffn_probe.anatomy import ROLES
from ffn_probe.errors import UnknownName


def listed(given: list[str] | None) -> list[str] | None:
    """Return the names of an option that can be repeated and takes commas."""
    names = [name.strip() for text in given or () for name in text.split(",")]
    return [name for name in names if name] or None


def roles_in(given: list[str] | None) -> list[str] | None:
    """Return the roles; UnknownName for one that is none."""
    for role in listed(given) or ():
        if role not in ROLES:
            raise UnknownName.of("role", role, ROLES)
    return listed(given)


def numbers_in(given: list[str] | None) -> list[int] | None:
    """Return whole numbers; None for none."""
    try:
        return [int(text) for text in listed(given) or ()] or None
    except ValueError:
        raise typer.BadParameter(f"--experts {','.join(given or ())}: not numbers") from None


def rows_in(text: str) -> int | str:
    """Return "all" or a count of at least 1."""
    if text == "all":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--rows {text!r}: expected a count of at least 1, or all")
    return int(text)


def tags_in(given: list[str] | None) -> dict[str, str]:
    """Return name=value texts as a mapping."""
    return dict(_pair(text, "--tag") for text in given or ())


def thresholds_in(given: list[str] | None) -> dict[str, float] | None:
    """Return name=number texts as a mapping; None for none."""
    found = {}
    for text in given or ():
        name, value = _pair(text, "--threshold")
        try:
            found[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"--threshold {text}: {value!r} is no number") from None
    return found or None


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise typer.BadParameter(f"{option} {text!r} is not name=value")
    return name, value

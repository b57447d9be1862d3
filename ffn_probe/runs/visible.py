"""Text of unknown origin, in one line that hides nothing."""

_SIGNS = {ord("\n"): "\u21b5", ord("\t"): "\u21e5"}
"""Newline and tab as signs that fonts have."""


def visible(text: str, most: int) -> str:
    r"""Return at most `most` letters: newline and tab as signs, what is not seen as <U+..>.

    >>> visible("a\n\u202e b", 64)
    'a↵<U+202E> b'
    """
    shown = text[:most].translate(_SIGNS)
    safe = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in shown)
    return safe if len(safe) <= most else safe[: most - 1] + "\u2026"

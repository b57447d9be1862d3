"""Text of unknown origin, in one line that hides nothing."""

_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}
"""Control characters as their pictures: a newline is one letter that can be seen."""


def visible(text: str, most: int) -> str:
    r"""Return at most `most` letters: control characters as pictures, the unseen as <U+..>.

    >>> visible("a\n\u202e b", 64)
    'a␊<U+202E> b'
    """
    shown = text[:most].translate(_PICTURES)
    safe = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in shown)
    return safe if len(safe) <= most else safe[: most - 1] + "…"

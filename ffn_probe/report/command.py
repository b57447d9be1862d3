"""The command that makes a report again, from the folders of its runs."""

import shlex
from collections.abc import Sequence

from ffn_probe.compare import Drift


def rebuilding(paths: Sequence[str], to: str, drift: Drift | None = None) -> str:
    """Return the command for runs at these paths, with the options of a drift.

    `to` is how it ends: a file name, and options.
    The same command over the same runs makes the same bytes.
    """
    words = ["ffn-probe", "report", *map(quoted, paths)]
    if drift is not None:
        asked = drift.asked
        for name, value in asked.thresholds:
            words += ["--threshold", quoted(f"{name}={value!r}")]
        for option, path in (("--repeat", asked.repeat), ("--mapping", asked.mapping)):
            words += [option, quoted(path)] if path else []
    return " ".join([*words, "--to", to])


def quoted(text: str) -> str:
    r"""Return a word as a shell reads it; what does not print as bash's $'...'.

    >>> print(quoted("runs/a b"), quoted("a" + chr(10) + "b"))
    'runs/a b' $'a\nb'
    """
    word = shlex.quote(text)
    if text.startswith("-"):
        word = shlex.quote("./" + text)
    if text.isprintable():
        return word
    named = {"\n": r"\n", "\t": r"\t", "'": r"\'", "\\": r"\\"}
    return "$'" + "".join(named.get(c) or (c if c.isprintable() else _bytes(c))
                          for c in text) + "'"  # fmt: skip


def _bytes(character: str) -> str:
    """Return a character as the bytes it has in a path."""
    data = character.encode("utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff"
                            else "surrogatepass")  # fmt: skip
    return "".join(f"\\x{byte:02x}" for byte in data)
